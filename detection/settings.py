"""Overriding nested settings by plain values, from TOML, JSON or flags, with errors that help."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from data.types import InputError

Settings = TypeVar("Settings")


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
    changed: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            nearest = difflib.get_close_matches(name, fields, 1, cutoff=0)
            raise InputError(f"{source}: unknown key {name!r}; did you mean {nearest[0]!r}?")
        present = getattr(settings, name)
        if dataclasses.is_dataclass(present):
            if not isinstance(value, Mapping):
                raise InputError(f"{source}: {name} is a table of settings, not {value!r}")
            changed[name] = override(present, value, f"{source}: {name}")
        else:
            changed[name] = _converted(present, value, f"{source}: {name}")
    try:
        return dataclasses.replace(settings, **changed)  # type: ignore[type-var]
    except ValueError as error:
        raise InputError(f"{source}: {error}") from error


def _converted(present: Any, value: Any, place: str) -> Any:
    value = tuple(value) if isinstance(value, list) else value
    if isinstance(present, float) and type(value) is int:
        return float(value)
    if present is not None and type(value) is not type(present):
        raise InputError(f"{place} must be of type {type(present).__name__}, not {value!r}")
    if (
        isinstance(present, tuple)
        and present
        and {type(one) for one in value} - {type(one) for one in present}
    ):
        raise InputError(f"{place} must be a list of {type(present[0]).__name__}, not {list(value)!r}")
    return value
