"""One run for one folder: its settings are written once and must be the same from then on."""

import json
import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from sppnet.common.errors import InputError
from sppnet.common.files import atomic_path, read_text
from sppnet.common.parsing import parse_toml
from sppnet.common.settings import with_defaults, with_todays_names

_LOG = logging.getLogger(__name__)


def claim(
    file: Path, text: str, for_people: Collection[str] = (), defaults: Mapping[str, Any] | None = None
) -> None:
    """Writes a run's settings, or checks that the file has the same ones already.

    An empty file, or one with only the beginning of the settings, as a power cut may leave it, is written
    again, with a warning.

    Args:
        file: the file of the settings in the run's folder.
        text: the settings as TOML. A setting that was renamed since then counts as the same.
        for_people: names of entries that only people read; they are not compared.
        defaults: settings that the file lacks count as these: they were added since it was written.

    Raises:
        InputError: the file has other settings (the first one is named), or cannot be written.

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
        torn = is_torn(file, text)
        if torn:
            _LOG.warning("%s: empty or cut, as after a power cut; it is written again", file)
        if torn or not file.exists():
            with atomic_path(file) as path:
                path.write_text(text, encoding="utf-8")
        present = read_text(file, "the run's settings")
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; check the folder") from error
    old, new = _entries(present, defaults or {}), _entries(text)
    if old is None or new is None:
        old, new = _lines(present), _lines(text)
    differing = [name for name in {**new, **old} if name not in for_people and old.get(name) != new.get(name)]
    if differing:
        # What a digest is of says more to people.
        name, of_digest = differing[0], differing[0].removesuffix("_digest")
        if of_digest in for_people and old.get(of_digest) != new.get(of_digest):
            name = of_digest
        raise InputError(
            f"{file}: the run has {old.get(name, 'nothing')!r}, not {new.get(name, 'nothing')!r}; "
            "give another RUN name, or delete the folder"
        )


def is_torn(file: Path, text: str) -> bool:
    """Whether a file of settings is empty, or was cut while ``text`` was written; a missing one is not."""
    try:
        present = file.read_bytes().rstrip(b"\0")
    except OSError:
        return False
    # A file that ends with a line is whole: settings were fewer in earlier versions.
    return not present.strip() or (not present.endswith(b"\n") and text.encode().startswith(present))


def _entries(text: str, defaults: Mapping[str, Any] | None = None) -> dict[str, str] | None:
    """Returns each setting as ``table.name = value`` under today's names; None if the text is not TOML."""
    try:
        settings = with_todays_names(parse_toml(text, "the run's settings"))
    except InputError:
        return None
    return dict(_flat(with_defaults(settings, defaults or {})))


def _flat(settings: Mapping[str, Any], table: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{table}{name}.")
        else:
            yield f"{table}{name}", f"{table}{name} = {json.dumps(value, default=str, ensure_ascii=False)}"


def _lines(text: str) -> dict[str, str]:
    return {f"line {number}": line for number, line in enumerate(text.splitlines(), 1)}
