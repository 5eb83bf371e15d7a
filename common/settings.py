"""Overrides nested settings with plain values from TOML, JSON or flags; checks choices."""

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from sppnet.common.errors import InputError
from sppnet.common.parsing import parse_toml, read_toml

Settings = TypeVar("Settings")

# Of a value in an error message.
_SHOWN_LETTERS = 200
# What numpy, torch and OpenCV take as a whole number.
_LARGEST = 2**63 - 1


def check_choice(name: str, value: object, choices: object) -> None:
    """Checks a value against a ``Literal`` type.

    Args:
        name: the setting's name, for the error.
        value: the value that was given.
        choices: a ``typing.Literal`` type with the values that are allowed.

    Raises:
        InputError: the value is not one of ``choices``.

    Example:
        >>> from typing import Literal
        >>> check_choice("mode", "spp", Literal["spp", "rcnn"])
        >>> check_choice("mode", "yolo", Literal["spp", "rcnn"])
        Traceback (most recent call last):
        ...
        sppnet.common.errors.InputError: mode 'yolo': choose spp or rcnn
    """
    allowed = get_args(choices)
    if value not in allowed:
        *names, last = map(str, allowed)
        listed = f"{', '.join(names)} or {last}" if names else last
        raise InputError(f"{name} {value!r}: choose {listed}")


def changed(settings: Settings, config: Path | None = None, changes: Sequence[str] = ()) -> Settings:
    """Returns a copy of the settings, changed by a TOML file and then by single lines.

    Args:
        settings: a dataclass instance.
        config: a TOML file with any subset of the tables and keys of ``settings``.
        changes: TOML lines such as ``features.scales = [480, 576]``. They are applied together, so values
            that depend on each other may come in separate lines. Of two lines for one key the later counts.

    Raises:
        InputError: the file or a line cannot be read as TOML, a key is unknown (the nearest is named), or a
            value is wrong.
    """
    if config is not None:
        settings = override(settings, read_toml(config, "the settings"), str(config))
    merged: dict[str, Any] = {}
    for change in changes:
        merged = _merged(merged, parse_toml(change, f"--set {_short(change)}"))
    return override(settings, merged, ", ".join(f"--set {_short(change)}" for change in changes))


def _shown(value: Any) -> str:
    return _short(repr(value))


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_LETTERS else f"{text[:_SHOWN_LETTERS]}..."


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Merges two nested tables; where both have a value, ``changes`` wins."""
    tables = {
        name: _merged(values[name], changes[name])
        for name in values.keys() & changes.keys()
        if isinstance(values[name], dict) and isinstance(changes[name], dict)
    }
    return values | changes | tables


# Old names in the files of runs and models, from before the settings were renamed.
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
    """Replaces names of earlier versions with today's in the nested settings of a run or a model.

    Example:
        >>> with_todays_names({"detection": {"nms_overlap": 0.3}})
        {'detection': {'nms_iou': 0.3}}
    """
    return {
        _TODAYS_NAMES.get(name, name): with_todays_names(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
    }


def with_defaults(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the defaults of settings that are missing in the nested settings of a run of an earlier version.

    Example:
        >>> with_defaults({"training": {"seed": 3}}, {"training": {"seed": 0, "memory_gb": 4.0}})
        {'training': {'seed': 3, 'memory_gb': 4.0}}
    """
    merged = {**defaults, **values}
    for name, default in defaults.items():
        if isinstance(default, Mapping) and isinstance(merged[name], Mapping):
            merged[name] = with_defaults(merged[name], default)
    return merged


def override(settings: Settings, values: Mapping[str, Any], source: str) -> Settings:
    """Returns a copy of a (nested) settings dataclass with some values replaced.

    Args:
        settings: a dataclass instance. A new value must have the type of the present value; None may be
            replaced by any plain value.
        values: field to value, nested as the dataclass is; lists stand for tuples.
        source: the origin of the values, for error messages.

    Raises:
        InputError: a key is unknown (the nearest known one is named), or a value has another type.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Features:
        ...     scales: tuple[int, ...] = (688,)
        >>> override(Features(), {"scales": [480, 576]}, "config.toml")
        Features(scales=(480, 576))
        >>> override(Features(), {"scale": [480]}, "config.toml")
        Traceback (most recent call last):
        ...
        sppnet.common.errors.InputError: config.toml: unknown key 'scale'; did you mean 'scales'?
    """
    fields = {field.name for field in dataclasses.fields(settings)}  # type: ignore[arg-type]
    replaced: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            nearest = difflib.get_close_matches(name[:_SHOWN_LETTERS], fields, 1, cutoff=0)
            raise InputError(f"{source}: unknown key {_shown(name)}; did you mean {nearest[0]!r}?")
        present = getattr(settings, name)
        if dataclasses.is_dataclass(present):
            if not isinstance(value, Mapping):
                raise InputError(f"{source}: {name} is a table of settings, not {_shown(value)}")
            replaced[name] = override(present, value, f"{source}: {name}")
        else:
            replaced[name] = _converted(present, value, f"{source}: {name}")
    try:
        return dataclasses.replace(settings, **replaced)  # type: ignore[type-var]
    except ValueError as error:
        raise InputError(f"{source}: {error}") from error
    # Where the present value is None, the new one may have any type.
    except TypeError as error:
        raise InputError(f"{source}: a value has the wrong type ({error}); correct it") from error


def _converted(present: Any, value: Any, source: str) -> Any:
    value = tuple(value) if isinstance(value, list) else value
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, int) and abs(number) > _LARGEST:
            raise InputError(f"{source}: a whole number is beyond 64 bits; give a smaller one")
    if isinstance(present, float) and type(value) is int:
        return float(value)
    if isinstance(present, tuple) and present and isinstance(present[0], float) and isinstance(value, tuple):
        value = tuple(float(item) if type(item) is int else item for item in value)
    if present is not None and type(value) is not type(present):
        raise InputError(f"{source} must be of type {type(present).__name__}, not {_shown(value)}")
    if (
        isinstance(present, tuple)
        and present
        and {type(item) for item in value} - {type(item) for item in present}
    ):
        raise InputError(f"{source} must be a list of {type(present[0]).__name__}, not {_shown(list(value))}")
    numbers = value if isinstance(value, tuple) else (value,)
    if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
        raise InputError(f"{source} must be finite, not {_shown(value)}; a large number does the same")
    return value
