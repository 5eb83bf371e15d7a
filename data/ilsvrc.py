"""Reads the layout of the ILSVRC detection task (DET)."""

import os
from pathlib import Path

from sppnet.common.errors import InputError
from sppnet.common.files import read_text
from sppnet.data.examples import OnError, gather, inside, read_ids
from sppnet.data.faults import MissingImageError
from sppnet.data.images import image_size
from sppnet.data.names import check_names
from sppnet.data.types import Dataset, Example
from sppnet.data.xml import Annotation, make_example, read_annotation

# The table of synsets, in the devkit unpacked beside or into the data.
_NAME_MAPS = ("map_det.txt", "devkit/data/map_det.txt", "data/map_det.txt")


def load_ilsvrc_det(
    root: Path,
    split: str,
    name_map: Path | None = None,
    on_error: OnError = "raise",
    *,
    need_images: bool = True,
) -> Dataset:
    """Reads one split of the ILSVRC object detection task (DET, layout of 2015 and later).

    ``root`` (or ``root/ILSVRC``) holds ``ImageSets/DET/<split>.txt`` (lines of ``<id> <number>``; an id
    includes folders), ``Data/DET/<split>/<id>.JPEG`` and ``Annotations/DET/<split>/<id>.xml``. If
    ``train.txt`` is missing, the images of ``train_1.txt`` to ``train_200.txt`` are joined: positive, partial
    and negative images.

    Boxes: the devkit calls them "PASCAL VOC format", but ImageNet's published annotations hold minima of 0
    and maxima of width-1 (500 wide: xmax 499), so their pixels count from 0, not from 1. The last pixel is
    inclusive: the edges are (xmin, ymin, xmax+1, ymax+1), clipped to the image.

    Missing annotations: "images without any annotated objects may not have a corresponding xml file" (devkit
    readme, training data), so such an image has no objects. ``val`` is fully annotated, so a missing file is
    an error there; ``test`` has no annotations.

    Args:
        root: the folder of the data.
        split: ``"train"``, ``"val"`` or ``"test"``.
        name_map: the devkit's ``data/map_det.txt`` (lines of ``<synset> <index> <name>``). Default:
            ``map_det.txt``, ``devkit/data/map_det.txt`` or ``data/map_det.txt`` in the folder.
        on_error: ``"raise"``, or ``"skip"`` images with a bad or missing file; a logged warning gives their
            number.
        need_images: False: image files may be missing, as for scoring, where there are annotations.

    Returns:
        the data set; its classes are the names in the order of their indices.

    Raises:
        InputError: a file is missing or malformed, a synset is unknown, or a box lies outside its image.

    Example:
        >>> import tempfile, cv2, numpy as np
        >>> temporary = tempfile.TemporaryDirectory()
        >>> root = Path(temporary.name)
        >>> for folder in ("ImageSets/DET", "Data/DET/test"):
        ...     (root / folder).mkdir(parents=True)
        >>> _ = (root / "ImageSets/DET/test.txt").write_text("a 1")
        >>> _ = (root / "map_det.txt").write_text("n02084071 1 dog")
        >>> _ = cv2.imwrite(str(root / "Data/DET/test/a.JPEG"), np.zeros((80, 100, 3), np.uint8))
        >>> load_ilsvrc_det(root, "test")
        Dataset(ILSVRC-DET test: 1 images, 1 classes, 0 objects)
    """
    folder = Path(root) / "ILSVRC" if (Path(root) / "ILSVRC").is_dir() else Path(root)
    if not (folder / "ImageSets" / "DET").is_dir():
        raise InputError(f"{folder}: has no ImageSets/DET; give the folder that holds ImageSets and Data")
    synsets = _read_name_map(name_map or _find_name_map(folder))
    check_names(folder, list(synsets.values()), split)
    labels = {synset: label for label, synset in enumerate(synsets)}
    lists = _read_lists(folder / "ImageSets" / "DET", split)

    def read(image_id: str) -> tuple[Example, int]:
        listed = lists[image_id]
        image = inside(folder / "Data" / "DET" / split, f"{image_id}.JPEG", listed)
        if need_images and not os.path.isfile(image):
            raise MissingImageError(f"{image}: this image of {listed} is missing; add it or unlist the id")
        path = inside(folder / "Annotations" / "DET" / split, f"{image_id}.xml", listed)
        if split == "val" or os.path.exists(path):
            annotation = read_annotation(path)
        else:
            annotation = Annotation(path, image.name, image_size(image), ())
        return make_example(annotation, image_id, image, labels, first_pixel=0)

    examples = gather(lists, read, on_error, f"ILSVRC DET {split}")
    return Dataset("ILSVRC-DET", split, tuple(synsets.values()), examples)


def _read_lists(folder: Path, split: str) -> dict[str, Path]:
    """Reads the ids of a split's images, each with its list."""
    complete_list = folder / f"{split}.txt"
    parts = [path for path in folder.glob(f"{split}_*.txt") if path.stem.removeprefix(f"{split}_").isdigit()]
    if complete_list.is_file() or not parts:
        return dict.fromkeys(read_ids(complete_list), complete_list)
    parts.sort(key=lambda path: int(path.stem.removeprefix(f"{split}_")))
    # An image is listed once for each synset that it was checked for; a dict keeps its first entry, in order.
    lists: dict[str, Path] = {}
    for path in parts:
        for image_id in read_ids(path):
            lists.setdefault(image_id, path)
    return lists


def _find_name_map(folder: Path) -> Path:
    for name in _NAME_MAPS:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder}: has no devkit/data/map_det.txt; copy it there from the ILSVRC devkit")


def _read_name_map(path: Path) -> dict[str, str]:
    """Reads the table of synsets: synset to class name, in the order of the table's indices."""
    lines = read_text(path, "the table of synsets").splitlines()
    try:
        rows = [line.split(maxsplit=2) for line in lines if line.strip()]
        table = {synset: (int(index), name.strip()) for synset, index, name in rows}
    except ValueError as error:
        raise InputError(
            f"{path}: not a table of '<synset> <index> <name>' lines ({error}); take the devkit's own"
        ) from error
    if not rows or len(table) < len(rows) or len({name for _, name in table.values()}) < len(rows):
        raise InputError(f"{path}: must hold each synset and each name once")
    return {synset: name for synset, (_, name) in sorted(table.items(), key=lambda item: item[1])}
