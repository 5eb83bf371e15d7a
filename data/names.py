"""Names of classes, splits and images: which can be used, and their form in names of files."""

import re
import reprlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from urllib.parse import unquote

from sppnet.common.errors import InputError

# A file name has 255 bytes on most file systems. VOC's result files add 15, and folders in the making 9.
_MOST_BYTES = 220
# An image id becomes <id>.png and the like.
_MOST_IMAGE_BYTES = 251
# Control characters, half surrogates, and separators of lines and paragraphs, at which text files break.
_UNUSABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
# Separators of folders, the dot of hidden files, and a percent sign that reading would take for an escape.
_ESCAPED = re.compile(r"^\.|[/\\]|%(?=[0-9A-Fa-f]{2})")


def check_names(
    source: object, classes: Sequence[str] = (), split: str = "", image_ids: Iterable[str] = ()
) -> None:
    """Checks that names can be used in all files and pictures, before hours of work.

    Any text can be a name if it is not empty, has no control character (a line break is one) and no half
    surrogate, and neither begins nor ends with a blank. A class and its split have at most 220 bytes together
    in UTF-8, each folder or file of an image id has at most 251.

    Args:
        source: the file or data set that the names come from, for error messages.
        classes: class names; no two are the same text in Unicode's composed form.
        split: the name of a split; empty: it is not checked.
        image_ids: the ids of images.

    Raises:
        InputError: a name cannot be used.

    Example:
        >>> check_names("my-data", ["$cat^2$", "cabinet/shelf", "猫"], "test", ["IMG (1)"])
        >>> check_names("my-data", ["cat\\n"])
        Traceback (most recent call last):
        sppnet.common.errors.InputError: my-data: the class 'cat\\n' has a control character; rename it
    """
    for kind, names in (("class", classes), ("split", [split] if split else []), ("image id", image_ids)):
        for name in names:
            fault = _fault(name)
            if not fault and kind == "image id":
                longest = max(len(part.encode()) for part in name.split("/"))
                fault = _too_long(longest, _MOST_IMAGE_BYTES)
            if fault:
                raise InputError(f"{source}: the {kind} {reprlib.repr(name)} {fault}; rename it")
    if classes:
        _check_together(source, classes, split)


def _check_together(source: object, classes: Sequence[str], split: str) -> None:
    """Checks that classes differ, and that the names of their files are not too long."""
    composed = Counter(unicodedata.normalize("NFC", name) for name in classes)
    name, count = composed.most_common(1)[0]
    if count > 1:
        raise InputError(
            f"{source}: the class {reprlib.repr(name)} is there {count} times; make the names different"
        )
    for name, part in zip(classes, file_parts(classes), strict=True):
        if fault := _too_long(len("".join([part, *file_parts([split])]).encode()), _MOST_BYTES):
            raise InputError(f"{source}: the class {reprlib.repr(name)} {fault}; rename it")


def file_parts(names: Sequence[str]) -> list[str]:
    r"""Returns the form of each name in names of files; `name_of_part` is its inverse.

    Slashes of both kinds and a dot at the beginning are escaped with their number, as in URLs. Of names that
    differ only in capital letters, which are one file on macOS, the later ones are escaped as a whole.

    Args:
        names: different names, which `check_names` accepts.

    Example:
        >>> file_parts(["cat", "dining table", "cabinet/shelf", "A", "a"])
        ['cat', 'dining table', 'cabinet%2Fshelf', 'A', '%61']
    """
    parts: list[str] = []
    taken: set[str] = set()
    for name in names:
        part = _ESCAPED.sub(lambda match: f"%{ord(match[0]):02X}", name)
        if part.casefold() in taken:
            part = "".join(f"%{byte:02X}" for byte in name.encode())
        taken.add(part.casefold())
        parts.append(part)
    return parts


def name_of_part(part: str) -> str:
    """Returns the name of which `file_parts` made a part of a file's name.

    Example:
        >>> name_of_part("cabinet%2Fshelf"), name_of_part("100% cotton")
        ('cabinet/shelf', '100% cotton')
    """
    return unquote(part)


def text_lines(text: str) -> list[str]:
    r"""Splits a text at line breaks, and not, as ``splitlines``, at other characters that a name may have.

    Example:
        >>> text_lines("dog 1\r\ndog\u20282\n")
        ['dog 1', 'dog\u20282']
    """
    lines = re.split(r"\r\n|\r|\n", text)
    return lines if lines[-1] else lines[:-1]


def printable(text: str) -> str:
    r"""Returns a text in which half surrogates and control characters are escaped.

    Text files cannot hold the first, and libraries that draw text crash on them.

    Example:
        >>> printable("caf\udce9\n")
        'caf\\udce9\\n'
    """
    if text.isprintable():
        return text
    escapes = {
        ord(character): character.encode("unicode_escape").decode("ascii")
        for character in text
        if unicodedata.category(character) in _UNUSABLE
    }
    return text.translate(escapes)


def _fault(name: str) -> str:
    if not name.strip():
        return "has no characters but blanks" if name else "is empty"
    for character in "" if name.isprintable() else name:
        category = unicodedata.category(character)
        if category in _UNUSABLE:
            return "is not UTF-8" if category == "Cs" else "has a control character"
    if name != name.strip():
        return "begins or ends with a blank"
    return ""


def _too_long(count: int, most: int) -> str:
    return f"is too long for the name of a file: {count} bytes of at most {most}" if count > most else ""
