"""Overriding nested settings by plain values, from TOML, JSON or flags, with errors that help."""

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sppnet.common.errors import InputError
from sppnet.common.files import read_text

Settings = TypeVar("Settings")


def changed(settings: Settings, config: Path | None = None, changes: Sequence[str] = ()) -> Settings:
    """Settings overridden by a TOML file, overridden by single changes.

    Args:
        settings: a dataclass instance.
        config: TOML with its tables and keys; any subset.
        changes: TOML lines such as ``features.scales = [480, 576]``; all are made at once, so that values
            that must suit each other can be given one by one. Of two for one key the later counts.

    Raises:
        InputError: a file or TOML that cannot be read, an unknown key (the nearest is named), a wrong value.
    """
    if config is not None:
        text = read_text(config, "the settings")
        settings = override(settings, _parsed(text, str(config)), str(config))
    merged: dict[str, Any] = {}
    for change in changes:
        merged = _merged(merged, _parsed(change, f"--set {change}"))
    return override(settings, merged, ", ".join(f"--set {change}" for change in changes))


def _parsed(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{source}: not TOML ({error}); write key = value, strings in quotes") from error


def _merged(values: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Nested tables as one; where both have a value, that of ``more``."""
    both = {
        name: _merged(values[name], more[name])
        for name in values.keys() & more.keys()
        if isinstance(values[name], dict) and isinstance(more[name], dict)
    }
    return values | more | both


# Settings in files of runs and models that were written before these were renamed.
_TODAYS_NAMES = {
    "nms_overlap": "nms_iou",
    "negative_overlap": "max_negative_iou",
    "overlap_inclusive": "negative_iou_inclusive",
    "duplicate_overlap": "duplicate_iou",
    "min_overlap": "min_iou",
    "positive_overlap": "min_positive_iou",
    "negative_overlaps": "negative_iou_range",
    "windows_per_image": "proposals_per_image",
    "max_windows": "max_proposals",
    "norm_windows": "norm_proposals",
    "tap_images": "feature_level_images",
    "taps": "feature_levels",
}


def with_todays_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables of settings, as a run or a model keeps them, under the names that settings have today."""
    return {
        _TODAYS_NAMES.get(name, name): with_todays_names(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
    }


def override(settings: Settings, values: Mapping[str, Any], source: str) -> Settings:
    """A copy of a (nested) settings dataclass with some values replaced.

    Args:
        settings: a dataclass instance; its present values say what type a new one must have. Where it is
            None, any plain value will do.
        values: field to value, nested as the dataclass is; lists stand for tuples.
        source: where the values come from, for errors.

    Raises:
        InputError: an unknown key (the nearest known one is named) or a value of another type.
    """
    fields = {field.name for field in dataclasses.fields(settings)}  # type: ignore[arg-type]
    replaced: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            nearest = difflib.get_close_matches(name, fields, 1, cutoff=0)
            raise InputError(f"{source}: unknown key {name!r}; did you mean {nearest[0]!r}?")
        present = getattr(settings, name)
        if dataclasses.is_dataclass(present):
            if not isinstance(value, Mapping):
                raise InputError(f"{source}: {name} is a table of settings, not {value!r}")
            replaced[name] = override(present, value, f"{source}: {name}")
        else:
            replaced[name] = _converted(present, value, f"{source}: {name}")
    try:
        return dataclasses.replace(settings, **replaced)  # type: ignore[type-var]
    except ValueError as error:
        raise InputError(f"{source}: {error}") from error


def _converted(present: Any, value: Any, place: str) -> Any:
    value = tuple(value) if isinstance(value, list) else value
    if isinstance(present, float) and type(value) is int:
        return float(value)
    if isinstance(present, tuple) and present and isinstance(present[0], float) and isinstance(value, tuple):
        value = tuple(float(one) if type(one) is int else one for one in value)
    if present is not None and type(value) is not type(present):
        raise InputError(f"{place} must be of type {type(present).__name__}, not {value!r}")
    if (
        isinstance(present, tuple)
        and present
        and {type(one) for one in value} - {type(one) for one in present}
    ):
        raise InputError(f"{place} must be a list of {type(present[0]).__name__}, not {list(value)!r}")
    numbers = value if isinstance(value, tuple) else (value,)
    if any(isinstance(one, float) and not math.isfinite(one) for one in numbers):
        raise InputError(f"{place} must be finite, not {value!r}; a large number does the same")
    return value
