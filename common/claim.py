"""One run for one folder: its settings are written once and must be the same from then on."""

import tomllib
from collections.abc import Collection
from itertools import zip_longest
from pathlib import Path
from typing import Any

from sppnet.common.errors import InputError
from sppnet.common.files import atomic_path, read_text
from sppnet.common.settings import with_todays_names


def claim(file: Path, text: str, for_people: Collection[str] = ()) -> None:
    """Writes a run's settings, or checks that the file has the same ones already.

    Args:
        file: the file of the settings in the run's folder.
        text: the settings as TOML. Settings that were renamed since count as the same.
        for_people: names of entries that are not compared.

    Raises:
        InputError: the file has other settings (the first line that differs is named), or cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     claim(Path(folder, "run.toml"), "scale = 688")
        ...     claim(Path(folder, "run.toml"), "scale = 688")
        ...     claim(Path(folder, "run.toml"), "scale = 480")
        Traceback (most recent call last):
        ...
        sppnet.common.errors.InputError: ...run.toml: the run has 'scale = 688', not 'scale = 480'; ...
    """
    try:
        if not file.exists():
            with atomic_path(file) as path:
                path.write_text(text, encoding="utf-8")
        present = read_text(file, "the run's settings")
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; check the folder") from error
    if _compared(present, for_people) != _compared(text, for_people):
        pairs = zip_longest(present.splitlines(), text.splitlines(), fillvalue="nothing")
        old, new = next(((old, new) for old, new in pairs if old != new), ("", ""))
        raise InputError(
            f"{file}: the run has {old!r}, not {new!r}; give another RUN name, or delete the folder"
        )


def _compared(text: str, for_people: Collection[str]) -> dict[str, Any] | str:
    """The settings under the names they have today; the text itself where it is not TOML."""
    try:
        settings = with_todays_names(tomllib.loads(text))
    except tomllib.TOMLDecodeError:
        return text
    return {name: value for name, value in settings.items() if name not in for_people}
