"""Parses JSON and TOML that others wrote: whatever is wrong with it, the error names the file."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sppnet.common.errors import DamageError, InputError
from sppnet.common.files import read_text

Text = TypeVar("Text", str, bytes)

# Settings and COCO's files have five levels. Code that follows the levels by calls must not run out of stack.
_MAX_DEPTH = 100
# The time of tomllib grows with the square of the parts of a dotted key.
_MAX_TOML_LETTERS = 1_000_000
_MAX_TOML_DOTS = 100


def read_json(path: Path) -> Any:
    """Reads a file of JSON.

    Args:
        path: the file: UTF-8, UTF-16 or UTF-32.

    Returns:
        dicts, lists, texts, numbers (NaN and infinities among them), truth values and None.

    Raises:
        InputError: the file cannot be read, or is not JSON; it is nested more than 100 levels deep, or has a
            number of more than 4,300 digits.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a.json").write_text('{"classes": ["dog"]}')
        ...     read_json(Path(folder, "a.json"))
        {'classes': ['dog']}
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    return _parse(json.loads, data, f"{path}: cannot be read as JSON", "restore the file")


def read_toml(path: Path, content: str) -> dict[str, Any]:
    """Reads a file of TOML.

    Args:
        path: the file: UTF-8, with or without a byte order mark.
        content: words for the file's content in error messages, such as ``"the settings"``.

    Raises:
        InputError: as for `parse_toml`, or the file cannot be read.
    """
    return parse_toml(read_text(path, content), str(path))


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """Parses TOML.

    Args:
        text: TOML.
        source: where it comes from, for error messages.

    Raises:
        InputError: it is not TOML; it is nested more than 100 levels deep, or has a number of more than 4,300
            digits; a line has more than 100 dots, or the text more than a million letters.

    Example:
        >>> parse_toml("scales = [480, 576]", "--set")
        {'scales': [480, 576]}
        >>> parse_toml("scales = [480", "--set")
        Traceback (most recent call last):
        ...
        sppnet.common.errors.InputError: --set: not TOML (...); write key = value, strings in quotes
    """
    fault, advice = f"{source}: not TOML", "write key = value, strings in quotes"
    if len(text) > _MAX_TOML_LETTERS or any(line.count(".") > _MAX_TOML_DOTS for line in text.splitlines()):
        raise InputError(f"{fault} of settings (too long, or over {_MAX_TOML_DOTS} dots in a line); {advice}")
    values: dict[str, Any] = _parse(tomllib.loads, text, fault, advice)
    return values


def _parse(parser: Callable[[Text], Any], text: Text, fault: str, advice: str) -> Any:
    try:
        value = parser(text)
    except RecursionError as error:
        raise InputError(f"{fault} (nested too deep); {advice}") from error
    # Of bytes that are no text, and of a number with too many digits, too.
    except ValueError as error:
        raise InputError(f"{fault} ({error}); {advice}") from error
    if _is_deep(value):
        raise InputError(f"{fault} (nested more than {_MAX_DEPTH} levels deep); {advice}")
    return value


def _is_deep(value: Any) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_MAX_DEPTH):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
    return bool(level)


def read_description(file: Path, incomplete: str) -> dict[str, Any]:
    """Reads the JSON file that describes a saved detector or classifier.

    Args:
        file: in the folder that was saved.
        incomplete: words that follow the folder's name where the file is missing.

    Raises:
        DamageError: the file is missing, or holds no JSON object.

    Example:
        >>> read_description(Path("model/model.json"), "is no complete model folder")
        Traceback (most recent call last):
        ...
        sppnet.common.errors.DamageError: model/model.json: missing; model is no complete model folder
    """
    if not file.is_file():
        raise DamageError(f"{file}: missing; {file.parent} {incomplete}")
    try:
        description = read_json(file)
    except InputError as error:
        raise DamageError(f"{error}, or train again") from error
    if not isinstance(description, dict):
        raise DamageError(f"{file}: cannot be read (no JSON object); restore it or train again")
    return description
