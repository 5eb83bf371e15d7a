"""Detection in photos, printed and drawn."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
from rich.markup import escape
from rich.table import Table

from sppnet.cli.progress import ProgressReport
from sppnet.cli.terminal import complain, console, say, say_written
from sppnet.common.arrays import Image
from sppnet.common.errors import InputError
from sppnet.common.files import atomic_path
from sppnet.data import Detections, draw_detections
from sppnet.data.image_folder import list_images
from sppnet.detection.detector import Detector


def detect_in_photos(
    detector: Detector,
    photos: Sequence[Path],
    draw: Path | None,
    min_score: float,
    skip_errors: bool,
    workers: int,
) -> None:
    """Detects in photos, prints the detections of each, and draws them.

    Args:
        detector: finds the objects.
        photos: image files, and folders of them.
        draw: folder for the pictures; None: nothing is drawn.
        min_score: detections of at least this score are shown.
        skip_errors: whether photos that cannot be read are left out without an error.
        workers: photos at a time; 0: one a core.

    Raises:
        InputError: two photos would be drawn into one file; or, when the others are done, without
            ``skip_errors``, a photo that cannot be read.
    """
    files = [(path, file) for path in photos for file in list_images(path)]
    # A picture is called after the path below the folder that was given.
    names = [str(file.relative_to(path)) if path.is_dir() else file.name for path, file in files]
    if draw is not None:
        _check_names(draw, [file for _, file in files], names)
    errors: list[InputError] = []
    results = detector.detect_all([file for _, file in files], workers)
    with ProgressReport(console) as progress:
        for done, ((file, result), name) in enumerate(zip(results, names, strict=True), start=1):
            if isinstance(result, InputError):
                errors.append(result)
            else:
                image, detections = result
                shown = detections.filter(min_score)
                _print_detections(str(file), shown, detector.classes)
                if draw is not None:
                    picture = draw_detections(image, shown, detector.classes, min_score)
                    write_picture(draw / f"{name}.png", picture)
            progress("photos", done, len(files))
    if draw is not None and len(errors) < len(files):
        say_written(draw)
    if errors:
        complain(f"{len(errors)} of {len(files)} files skipped, the first: {errors[0]}", skip_errors)


def _check_names(draw: Path, files: Sequence[Path], names: Sequence[str]) -> None:
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        first, second = [file for file, name in zip(files, names, strict=True) if name == twice][:2]
        raise InputError(
            f"{first} and {second}: both would be drawn as {draw / twice}.png; give the folder above both, "
            "or draw them one after the other, into two folders"
        )


def _print_detections(file: str, detections: Detections, classes: Sequence[str]) -> None:
    # Not the table's title, which is broken to its width.
    say(f"{file}:" if len(detections) else f"{file}: nothing found")
    if not len(detections):
        return
    table = Table("class", "score", "left", "top", "right", "bottom")
    for box, score, label in zip(detections.boxes, detections.scores, detections.labels, strict=True):
        table.add_row(escape(classes[label]), f"{score:.2f}", *(f"{edge:.0f}" for edge in box))
    console.print(table)


def write_picture(path: Path, picture: Image) -> None:
    """Writes uint8 (H, W, 3) RGB as a PNG file, in a folder that is made.

    Raises:
        OSError: the file cannot be written.
    """
    # Not imwrite, which crashes on names that are not UTF-8.
    _, encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())
