"""Detection in photos and the frames of videos: printed, drawn and written to files."""

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import typer

from sppnet.cli.options import OutputOptions, PhotoOptions
from sppnet.cli.photo_files import PhotoInputs, list_errors
from sppnet.cli.photo_outputs import picture_path, write_outputs
from sppnet.cli.progress import ProgressReport
from sppnet.cli.terminal import complain, console, say, say_written
from sppnet.common.arrays import Image
from sppnet.common.cores import allowed_cores
from sppnet.common.errors import InputError
from sppnet.common.files import atomic_path
from sppnet.common.text import counted
from sppnet.data import Detections, check_names
from sppnet.data.photos import Photo, count_frames, read_camera, read_frames
from sppnet.detection.detector import Detector
from sppnet.eval.exports import PhotoDetections

# So many scores of a class stand in a photo's line.
_MOST_SCORES = 5
# Frames of a video that are decoded before they are detected in, for each core.
_FRAMES_AHEAD = 4

Result = tuple[Image, Detections] | InputError


class PhotoDetector:
    """Detects in photos and frames, prints a line for each, draws them and writes files."""

    def __init__(
        self, detector: Detector, threshold: str | float, outputs: OutputOptions, workers: int
    ) -> None:
        """Takes the detector and the outputs.

        Args:
            detector: finds the objects.
            threshold: detections that are printed, drawn and written; see `Detector.thresholds`.
            outputs: files and folders to write.
            workers: photos at a time; 0: one a core.

        Raises:
            InputError: see `Detector.thresholds`; or a class that VOC's files cannot hold, see `check_names`.
        """
        self._detector, self._outputs, self._workers = detector, outputs, workers
        self._thresholds = detector.thresholds(threshold)
        if outputs.voc is not None:
            check_names("the detector", detector.classes, "test")
        self._results: list[PhotoDetections] = []
        self._errors: list[InputError] = []

    def detect(self, inputs: PhotoInputs, options: PhotoOptions) -> None:
        """Detects in photos, then in videos, then in the camera's frames.

        After Ctrl-C the detections so far are written.

        Args:
            inputs: the photos and videos.
            options: frames to detect in, camera, what to do with files that cannot be read.

        Raises:
            InputError: when the others are done, without ``skip_errors``, a photo that cannot be read.
            typer.Exit: after Ctrl-C; not where it ends a camera.
        """
        start = time.monotonic()
        stopped = False
        try:
            if inputs.photos:
                self._detect_in_photos(inputs.photos)
            for video in inputs.videos:
                self._detect_in_video(video, options.every)
            if options.camera is not None:
                self._detect_in_camera(options.camera, options.every)
        except KeyboardInterrupt:
            say("stopped")
            stopped = options.camera is None
        self._print_totals(time.monotonic() - start, inputs.skipped + len(self._errors))
        written = write_outputs(self._outputs, self._results, self._detector.classes)
        if self._outputs.draw is not None and self._results:
            written.insert(0, self._outputs.draw)
        if written:
            say_written(*written)
        if stopped:
            raise typer.Exit(130)
        if self._errors:
            complain(list_errors(self._errors), options.skip_errors)

    def _detect_in_photos(self, photos: Sequence[Photo]) -> None:
        results = self._detector.detect_all([photo.path for photo in photos], self._workers)
        with ProgressReport(console) as progress:
            for done, (photo, (_, result)) in enumerate(zip(photos, results, strict=True), start=1):
                self._take(photo, result)
                progress("photos", done, len(photos))

    def _detect_in_video(self, video: Photo, every: int) -> None:
        total = count_frames(video.path, every)
        ahead = _FRAMES_AHEAD * (self._workers or allowed_cores())
        done = 0
        with ProgressReport(console) as progress:
            for photo, result in self._results_of_frames(video, read_frames(video.path, every), ahead):
                self._take(photo, result)
                done += 1
                progress(f"frames of {video.path.name}", done, max(done, total))

    def _detect_in_camera(self, index: int, every: int) -> None:
        camera = Photo(Path(f"camera{index}"), f"camera{index}")
        # One at a time, so that each is the newest.
        for photo, result in self._results_of_frames(camera, read_camera(index, every), 1):
            self._take(photo, result)

    def _results_of_frames(
        self, video: Photo, frames: Iterator[tuple[int, Image]], ahead: int
    ) -> Iterator[tuple[Photo, Result]]:
        """Detects in frames, of which so many are decoded ahead."""
        try:
            while batch := list(itertools.islice(frames, ahead)):
                results = self._detector.detect_all([frame for _, frame in batch], self._workers)
                for (number, _), (_, result) in zip(batch, results, strict=True):
                    yield replace(video, frame=number), result
        except InputError as error:
            # A video or a camera that was there a moment ago.
            self._errors.append(error)

    def _take(self, photo: Photo, result: Result) -> None:
        """Prints and draws the detections of a photo, and keeps them for the files."""
        if isinstance(result, InputError):
            self._errors.append(result)
            return
        image, detections = result
        detections = self._detector.calibrated(detections)
        shown = detections[detections.scores >= self._thresholds[detections.labels]]
        say(f"{photo.title}: {summary(shown, self._detector.classes) or self._best_below(detections)}")
        if self._outputs.draw is not None:
            try:
                picture = shown.draw(image, self._detector.classes)
                write_picture(picture_path(self._outputs.draw, photo), picture)
            except InputError as error:
                self._errors.append(error)
        height, width = image.shape[:2]
        self._results.append(PhotoDetections(photo, width, height, shown))

    def _print_totals(self, seconds: float, skipped: int) -> None:
        frames = sum(result.photo.frame is not None for result in self._results)
        photos = len(self._results) - frames
        parts = [counted(photos, "photo")] if photos or not frames else []
        parts += [counted(frames, "frame")] if frames else []
        labels = Counter(label for result in self._results for label in result.detections.labels.tolist())
        classes = ", ".join(
            counted(count, self._detector.classes[label]) for label, count in labels.most_common()
        )
        objects = counted(labels.total(), "object") + (f" ({classes})" if classes else "")
        parts.append(objects)
        if self._results:
            unit = "a photo" if not frames else "a frame" if not photos else "an image"
            parts.append(f"{seconds / len(self._results):.2f} seconds {unit}")
        if skipped:
            parts.append(f"{skipped} skipped")
        say(f"total: {', '.join(parts)}")

    def _best_below(self, detections: Detections) -> str:
        if not len(detections):
            return "nothing found"
        best = detections[int(np.argmax(detections.scores))]
        (name,) = best.names(self._detector.classes)
        return f"nothing found; the best is {name} {best.scores[0]:.2f}"


def summary(detections: Detections, classes: Sequence[str]) -> str:
    """Describes detections in a line: their classes, the surest first, with number and scores.

    Example:
        >>> boxes = [[0, 0, 9, 9], [9, 9, 20, 20], [5, 5, 9, 9]]
        >>> summary(Detections.of(boxes, [0.93, 0.71, 0.88], [1, 1, 0]), ["cat", "dog"])
        '2 dogs 0.93 0.71, 1 cat 0.88'
    """
    parts = []
    order = np.argsort(-detections.scores, kind="stable")
    for label in dict.fromkeys(detections.labels[order].tolist()):
        scores = [f"{score:.2f}" for score in detections.scores[order][detections.labels[order] == label]]
        more = " …" if len(scores) > _MOST_SCORES else ""
        parts.append(f"{counted(len(scores), classes[label])} {' '.join(scores[:_MOST_SCORES])}{more}")
    return ", ".join(parts)


def write_picture(path: Path, picture: Image) -> None:
    """Writes an image in the format of the file's suffix, in a folder that is made where it is missing.

    Args:
        path: the file, replaced as a whole.
        picture: uint8 (H, W, 3) RGB.

    Raises:
        InputError: the format cannot hold the image, as WebP above 16,383 pixels.
        OSError: the file cannot be written.
    """
    # A name of JPEG files that OpenCV does not know.
    suffix = ".jpg" if path.suffix.lower() == ".jfif" else path.suffix
    try:
        # Not imwrite, which crashes on names that are not UTF-8.
        encoded, content = cv2.imencode(suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    except cv2.error:
        encoded = False
    if not encoded:
        raise InputError(f"{path}: the picture cannot be written in this format; convert the photo to PNG")
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.tobytes())
