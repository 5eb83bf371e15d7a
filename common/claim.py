"""One folder, one run: a run's settings are written once, and must be the same from then on."""

import tomllib
from itertools import zip_longest
from pathlib import Path
from typing import Any

from sppnet.common.errors import InputError
from sppnet.common.files import atomic_path, read_text
from sppnet.common.settings import with_todays_names


def claim(file: Path, text: str) -> None:
    """Writes a run's settings, or makes sure that the file says the same already.

    Raises:
        InputError: it says something else (the first line that differs is named), or cannot be written.
    """
    try:
        if not file.exists():
            with atomic_path(file) as path:
                path.write_text(text, encoding="utf-8")
        present = read_text(file, "the run's settings")
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; check the folder") from error
    if _todays(present) != _todays(text):
        pairs = zip_longest(present.splitlines(), text.splitlines(), fillvalue="nothing")
        old, new = next(((a, b) for a, b in pairs if a != b), ("", ""))
        raise InputError(
            f"{file}: the run has {old!r}, not {new!r}; give another RUN name, or delete the folder"
        )


def _todays(text: str) -> dict[str, Any] | str:
    """The settings of a text, under today's names; the text itself where it is not TOML."""
    try:
        return with_todays_names(tomllib.loads(text))
    except tomllib.TOMLDecodeError:
        return text
