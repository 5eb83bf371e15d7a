"""The files that ``sppnet predict`` writes: checked before the work, written after it."""

from collections.abc import Sequence
from pathlib import Path

from sppnet.cli.options import OutputOptions
from sppnet.common.errors import InputError
from sppnet.common.outputs import check_output_file, check_output_folder
from sppnet.data.names import check_names, printable
from sppnet.data.photos import Photo
from sppnet.eval.exports import (
    PhotoDetections,
    check_yolo_folder,
    export_coco,
    export_csv,
    export_json,
    export_voc,
    export_yolo,
)

# Formats that OpenCV writes in colour; other photos are drawn as PNG.
_DRAWN_SUFFIXES = frozenset(
    {".bmp", ".dib", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)


def check_outputs(outputs: OutputOptions, photos: Sequence[Photo], videos: Sequence[Photo]) -> None:
    """Checks that all outputs can be written, and that each photo has its own name in them.

    Raises:
        InputError: they cannot; or a picture would replace its photo.
    """
    files = [path for path in (outputs.json, outputs.csv, outputs.coco) if path is not None]
    folders = [path for path in (outputs.draw, outputs.voc, outputs.yolo) if path is not None]
    for path in files:
        check_output_file(path)
        if files.count(path) > 1:
            raise InputError(f"{path}: is named for two outputs; give each its own file")
    for folder in folders:
        check_output_folder(folder)
    if outputs.draw is not None:
        _check_pictures(outputs.draw, [*photos, *videos])
    if outputs.voc is not None or outputs.yolo is not None:
        # Frames keep the suffix of their video.
        image_ids = [*(photo.image_id for photo in photos), *(video.name for video in videos)]
        _check_different(image_ids, [*photos, *videos], "VOC and YOLO leave out suffixes: ")
        if outputs.voc is not None:
            check_names(outputs.voc, image_ids=map(printable, image_ids))
    if outputs.yolo is not None:
        check_yolo_folder(outputs.yolo)


def _check_pictures(folder: Path, files: Sequence[Photo]) -> None:
    pictures = [picture_path(folder, file) for file in files]
    _check_different([str(picture) for picture in pictures], files)
    for file, picture in zip(files, pictures, strict=True):
        if picture.exists() and file.path.exists() and picture.samefile(file.path):
            raise InputError(f"{file.path}: would be replaced by its picture; draw into another folder")


def _check_different(names: Sequence[str], files: Sequence[Photo], reason: str = "") -> None:
    first: dict[str, Photo] = {}
    for name, file in zip(names, files, strict=True):
        if first.setdefault(name, file) is not file:
            raise InputError(
                f"{first[name].path} and {file.path}: {reason}both would be written as {name}; rename one, "
                "give the folder above both, or detect in one after the other"
            )


def picture_path(folder: Path, photo: Photo) -> Path:
    """Returns the file that a photo with its boxes drawn is written to.

    Example:
        >>> str(picture_path(Path("drawn"), Photo(Path("photos/trip/cat.jpg"), "trip/cat.jpg")))
        'drawn/trip/cat.jpg'
        >>> str(picture_path(Path("drawn"), Photo(Path("cat.mp4"), "cat.mp4", 123)))
        'drawn/cat.mp4#000123.jpg'
    """
    if photo.frame is not None:
        return folder / f"{photo.file_name}.jpg"
    same_format = photo.path.suffix.lower() in _DRAWN_SUFFIXES
    return folder / (photo.file_name if same_format else f"{photo.file_name}.png")


def write_outputs(
    outputs: OutputOptions, results: Sequence[PhotoDetections], classes: Sequence[str]
) -> list[Path]:
    """Writes the detections of all photos to the files that were asked for.

    Returns:
        the files and folders that were written.
    """
    written = []
    for path, export in (
        (outputs.json, export_json),
        (outputs.csv, export_csv),
        (outputs.coco, export_coco),
        (outputs.voc, export_voc),
        (outputs.yolo, export_yolo),
    ):
        if path is not None:
            export(path, results, classes)
            written.append(path)
    return written
