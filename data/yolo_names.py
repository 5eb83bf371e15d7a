"""Reads the names of YOLO's classes and splits from ``data.yaml``, ``classes.txt`` or ``obj.names``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sppnet.common.errors import InputError
from sppnet.common.files import read_text
from sppnet.data.names import text_lines

# Of several YAML files the first of these describes the data set.
_YAML_FILES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
# labelImg and Label Studio write the first, Darknet and CVAT the second.
_NAME_FILES = ("classes.txt", "obj.names", "labels.txt")
_SPLIT_KEYS = ("train", "val", "valid", "validation", "test", "trainval")
# The names of many thousand classes fit; no larger file describes a data set.
_MAX_YAML_BYTES = 1 << 22


@dataclass(frozen=True)
class Description:
    """The description of a data set in YOLO's form.

    Attributes:
        path: the file.
        names: class number to name.
        splits: the folders or lists of images of each split, as the file names them.
        keypoints: whether labels have keypoints after the box.
    """

    path: Path
    names: dict[int, str]
    splits: dict[str, list[str]] = field(default_factory=dict)
    keypoints: bool = False


def read_description(folder: Path) -> Description | None:
    """Reads the description of the data set in a folder; None: there is none.

    Raises:
        InputError: the description is malformed, or there are several.
    """
    documents = _yaml_documents(folder)
    names = next((folder / name for name in _NAME_FILES if (folder / name).is_file()), None)
    if not documents:
        return None if names is None else Description(names, _listed_names(names))
    path = next((folder / name for name in _YAML_FILES if folder / name in documents), None)
    if path is None and len(documents) > 1:
        raise InputError(
            f"{folder}: {' and '.join(path.name for path in documents)} both describe a data set; call one "
            "data.yaml"
        )
    path = path or next(iter(documents))
    return _described(path, documents[path], names)


def _yaml_documents(folder: Path) -> dict[Path, Mapping[str, Any]]:
    """Reads the YAML files of a folder that describe a data set."""
    documents: dict[Path, Mapping[str, Any]] = {}
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        try:
            document = _read_yaml(path)
        except InputError:
            # YAML of other programs is none of ours.
            if path.name in _YAML_FILES:
                raise
            continue
        if isinstance(document, dict) and ("names" in document or path.name in _YAML_FILES):
            documents[path] = document
    return documents


def _read_yaml(path: Path) -> Any:
    text = read_text(path, "the description of the data set")
    if len(text) > _MAX_YAML_BYTES:
        raise InputError(f"{path}: is too large to describe a data set; keep names and splits in it alone")
    try:
        # The base loader leaves all values as texts: a class may be called "no", "1.0" or "null". It makes
        # fewer kinds of objects than the safe loader.
        return yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as YAML ({reason}); correct it") from error


def _described(path: Path, document: Mapping[str, Any], names_file: Path | None) -> Description:
    if "names" in document:
        names = _names(document["names"], path)
    elif names_file is not None:
        names = _listed_names(names_file)
    else:
        raise InputError(f"{path}: has no names; add the list 'names' of the classes")
    root = document.get("path")
    splits = {}
    for key in _SPLIT_KEYS:
        value = document.get(key)
        sources = [source for source in (value if isinstance(value, list) else [value]) if source]
        if not all(isinstance(source, str) for source in sources):
            raise InputError(f"{path}: {key} is neither a path nor a list of paths; correct it")
        if sources:
            below_root = [f"{root}/{source}" for source in sources] if isinstance(root, str) and root else []
            splits[key] = [*sources, *below_root]
    return Description(path, names, splits, "kpt_shape" in document)


def _names(value: Any, path: Path) -> dict[int, str]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
    try:
        names = {int(number): name.strip() for number, name in pairs}
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: names is no list of names, nor numbers with a name each") from error
    if not names or not all(names.values()):
        raise InputError(f"{path}: names has no names, or an empty one; name every class")
    return names


def _listed_names(path: Path) -> dict[int, str]:
    lines = text_lines(read_text(path, "the list of classes"))
    names = {number: line.strip() for number, line in enumerate(lines) if line.strip()}
    if not names:
        raise InputError(f"{path}: has no names; write one class a line, in the order of their numbers")
    return names
