"""The rules about files in a check of a data set: each looks for one kind of mistake."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from sppnet.common.text import counted
from sppnet.data.check_finding import Finding, Severity
from sppnet.data.check_reading import Material
from sppnet.data.faults import FaultKind
from sppnet.data.image_folder import files_below

# Folders of VOC2012 with pictures that are no photos.
_NO_PHOTOS = frozenset({"SegmentationClass", "SegmentationObject"})
_HEIC = frozenset({".heic", ".heif"})

_FAULTS: dict[FaultKind, tuple[str, str]] = {
    "annotation": (
        "with an annotation that cannot be used",
        "Correct the annotations; until then these images are errors, or left out by --skip-errors.",
    ),
    "box": (
        "with a box that is empty, inverted or outside",
        "Correct or remove these objects in the annotation tool.",
    ),
    "missing image": (
        "annotated or listed, but without an image file",
        "Put the image files back, or remove these entries.",
    ),
    "missing annotation": (
        "listed, but without an annotation",
        "Annotate them, or remove them from the list. An image without objects needs an annotation that says "
        "so.",
    ),
    "over the border": (
        "with boxes that reach over the border",
        "They are clipped. Where it is more than a few pixels, image and annotation may not belong together.",
    ),
}


def find_file_faults(material: Material) -> Iterator[Finding]:
    """Applies the rules about files: annotations, images, copies, files that nothing leads to."""
    yield from _unopened_splits(material)
    yield from _reader_faults(material)
    yield from _undecodable_files(material)
    yield from _other_sizes(material)
    yield from _orientation(material)
    yield from _copies(material)
    yield from _unused_files(material)


def _unopened_splits(material: Material) -> Iterator[Finding]:
    if material.unopened:
        yield Finding(
            "problem",
            f"{counted(len(material.unopened), 'split')} that cannot be opened",
            "Correct the file that is named, then check again: nothing of these splits has been checked.",
            material.unopened,
        )


def _reader_faults(material: Material) -> Iterator[Finding]:
    by_kind: dict[FaultKind, dict[str, str]] = defaultdict(dict)
    for faults in material.faults.values():
        for fault in faults:
            if fault.image_id or fault.kind != "missing annotation":
                by_kind[fault.kind][fault.message] = fault.image_id or fault.message
    for kind, (title, advice) in _FAULTS.items():
        if messages := by_kind.get(kind):
            images = counted(len(set(messages.values())), "image")
            severity: Severity = "remark" if kind == "over the border" else "problem"
            yield Finding(severity, f"{images} {title}", advice, tuple(messages))


def _undecodable_files(material: Material) -> Iterator[Finding]:
    errors = [file.error for file in material.files.values() if file.error]
    if errors:
        yield Finding(
            "problem",
            f"{counted(len(errors), 'image file')} that cannot be decoded",
            "Fetch or export them again, or remove them with their annotations.",
            tuple(errors),
        )


def _other_sizes(material: Material) -> Iterator[Finding]:
    cut: list[str] = []
    resized: list[str] = []
    for example in material.examples:
        size = material.files[example.path].size
        if size in (None, example.size):
            continue
        text = f"{example.path}: {_size(size)} pixels, annotated as {_size(example.size)}"
        (cut if (example.boxes[:, 2:] > size).any() else resized).append(text)
    if cut:
        yield Finding(
            "problem",
            f"{counted(len(cut), 'image')} smaller than annotated, so that a box reaches out",
            "The image was shrunk, cropped or turned after it was annotated. Put the annotated file back, or "
            "annotate again.",
            tuple(cut),
        )
    if resized:
        yield Finding(
            "remark",
            f"{counted(len(resized), 'image')} of another size than annotated",
            "The boxes are used as they are. Look at the drawn examples: if boxes and objects do not match, "
            "put the annotated file back.",
            tuple(resized),
        )


def _orientation(material: Material) -> Iterator[Finding]:
    stored = [str(path) for path, file in material.files.items() if file.as_stored]
    if stored:
        yield Finding(
            "remark",
            f"{counted(len(stored), 'image')} annotated as stored, although EXIF asks to turn them",
            "They are used as stored: their annotated size fits nothing else. Look at the drawn examples: if "
            "boxes and objects do not match, annotate them again.",
            tuple(stored),
        )


def _copies(material: Material) -> Iterator[Finding]:
    """The same bytes in two splits, or twice in one."""
    copies_by_digest: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for dataset in material.parts:
        for example in dataset:
            file = material.files[example.path]
            # Files that are empty or cut off may be the same without being copies.
            if file.size is not None:
                copies_by_digest[file.digest].append((dataset.split, example.path))
    across, within = [], []
    for copies in copies_by_digest.values():
        splits = sorted({split for split, _ in copies})
        if len(splits) > 1:
            across.append(", ".join(f"{path} ({split})" for split, path in copies))
        elif len(copies) > 1:
            within.append(", ".join(str(path) for _, path in copies))
    if across:
        yield Finding(
            "problem",
            f"{counted(len(across), 'image')} in more than one split",
            "Scores on images that were trained on are too good. Keep each image in one split only; 'sppnet "
            "data split' divides anew and keeps copies together.",
            tuple(across),
        )
    if within:
        yield Finding(
            "remark",
            f"{counted(len(within), 'image')} more than once in a split, under several names",
            "Keep one copy: the others take time, and count twice.",
            tuple(within),
        )


def _unused_files(material: Material) -> Iterator[Finding]:
    """Files in the folder that no split leads to."""
    folder = _folder(material)
    if folder is None:
        return
    used = {example.path.resolve() for dataset in material.datasets for example in dataset}
    used_names = {Path(fault.image_id).name for faults in material.faults.values() for fault in faults}
    images = [path for path in files_below(folder) if not _NO_PHOTOS & set(path.parts)]
    annotations = files_below(folder, frozenset({".xml"}))
    annotated = {path.stem for path in annotations}
    unused = [
        path
        for path in images
        if path.resolve() not in used and path.stem not in used_names and path.name not in used_names
    ]
    unlisted = [str(path) for path in unused if path.stem in annotated]
    unannotated = [path for path in unused if path.stem not in annotated]
    if unlisted:
        yield Finding(
            "remark",
            f"{counted(len(unlisted), 'image')} annotated, but in no split",
            "They are not used. Add them to a list; or remove the lists, and divide all images with 'sppnet "
            "data split'.",
            tuple(unlisted),
        )
    if unannotated:
        yield Finding(
            "remark",
            f"{counted(len(unannotated), 'image')} without an annotation",
            "They are not used. Annotate them, or move them out of the folder.",
            tuple(map(str, unannotated)),
        )
    stems = {path.stem for path in images} | used_names
    orphans = [str(path) for path in annotations if path.stem not in stems]
    if orphans:
        yield Finding(
            "remark",
            f"{counted(len(orphans), 'annotation')} without an image",
            "Put the images back, or remove the annotations.",
            tuple(orphans),
        )
    heic = [str(path) for path in files_below(folder, _HEIC)]
    if heic:
        yield Finding(
            "remark",
            f"{counted(len(heic), 'photo')} in the format HEIC, which cannot be decoded",
            "Convert them to JPEG before you annotate them.",
            tuple(heic),
        )


def _folder(material: Material) -> Path | None:
    """The folder of the data set; None where it has no folder of its own."""
    folder = Path(material.name)
    paths = [example.path for dataset in material.datasets for example in dataset]
    if not folder.is_dir() or not paths:
        return None
    # Of a VOC devkit only one of the years was read.
    for child in folder.iterdir():
        if (child / "ImageSets").is_dir() and all(path.is_relative_to(child) for path in paths):
            return child
    return folder


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
