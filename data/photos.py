"""Photos, videos and cameras that a user names, and the frames of videos.

Names of files need not be UTF-8: OpenCV is given bytes and open files, and never a path.
"""

import glob
import itertools
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import cv2
import numpy as np

from sppnet.common.arrays import Image
from sppnet.common.errors import InputError
from sppnet.data.image_folder import HEIC_SUFFIXES, IMAGE_SUFFIXES, files_below
from sppnet.data.image_limits import check_pixels
from sppnet.data.images import MAX_PIXELS, image_size
from sppnet.data.video_stream import VideoStream

VIDEO_SUFFIXES = frozenset({".3gp", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})
_SUFFIXES = IMAGE_SUFFIXES | HEIC_SUFFIXES | VIDEO_SUFFIXES
# The brands of HEIF files, which stand behind "ftyp" (ISO/IEC 23008-12).
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})


@dataclass(frozen=True)
class Photo:
    """A photo file, a video file, or a frame of a video.

    Attributes:
        path: the file as the user named it, or below the folder that the user named.
        name: the path below that folder; the file's own name where the user named the file.
        frame: the number of a frame, from 0; None: a whole file.

    Example:
        >>> photo = Photo(Path("photos/trip/cat.jpg"), "trip/cat.jpg")
        >>> photo.title, photo.file_name, photo.image_id
        ('photos/trip/cat.jpg', 'trip/cat.jpg', 'trip/cat')
        >>> frame = Photo(Path("clips/cat.mp4"), "cat.mp4", 123)
        >>> frame.title, frame.file_name, frame.image_id
        ('clips/cat.mp4#000123', 'cat.mp4#000123', 'cat.mp4#000123')
    """

    path: Path
    name: str
    frame: int | None = None

    @property
    def title(self) -> str:
        """The path, and behind it the number of the frame."""
        return f"{self.path}{self._number}"

    @property
    def file_name(self) -> str:
        """The name, and behind it the number of the frame."""
        return f"{self.name}{self._number}"

    @property
    def image_id(self) -> str:
        """The name without its suffix, as data sets call images; frames keep the suffix of the video."""
        return str(PurePath(self.name).with_suffix("")) if self.frame is None else self.file_name

    @property
    def _number(self) -> str:
        return "" if self.frame is None else f"#{self.frame:06d}"


class PhotoSelection(NamedTuple):
    """The files that a user named.

    Attributes:
        photos: in the order of the names; those of a folder or pattern sorted.
        videos: those that were named, alone or by a pattern.
        other_videos: those in folders, which nobody asked for.
        errors: what cannot be used, one error a file or name.
    """

    photos: tuple[Photo, ...]
    videos: tuple[Photo, ...]
    other_videos: tuple[Path, ...]
    errors: tuple[InputError, ...]


def select_photos(paths: Iterable[Path | str]) -> PhotoSelection:
    """Finds photos and videos by name; no file is opened. A file that is named twice is taken once.

    Args:
        paths: image and video files, folders of images at any depth, and patterns with ``*``, ``?``, ``[ ]``
            and ``**`` for folders at any depth. Hidden files are passed over.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("a.jpg", "b.png", "c.mp4", "notes.txt"):
        ...         Path(folder, name).touch()
        ...     named = select_photos([folder, f"{folder}/*.mp4", "gone.jpg"])
        >>> [photo.name for photo in named.photos], [video.name for video in named.videos]
        (['a.jpg', 'b.png'], ['c.mp4'])
        >>> named.errors
        (InputError('gone.jpg: no such file or folder; check the path'),)
    """
    photos: dict[str, Photo] = {}
    videos: dict[str, Photo] = {}
    others: dict[str, Path] = {}
    errors: list[InputError] = []
    for path in map(Path, paths):
        try:
            named = _named_files(path)
        except InputError as error:
            errors.append(error)
            continue
        for photo, in_folder in named:
            key = os.path.abspath(photo.path)
            if not _is_video(photo.path):
                photos.setdefault(key, photo)
            elif in_folder:
                others[key] = photo.path
            else:
                videos.setdefault(key, photo)
    other_videos = tuple(path for key, path in others.items() if key not in videos)
    return PhotoSelection(tuple(photos.values()), tuple(videos.values()), other_videos, tuple(errors))


def _named_files(path: Path) -> list[tuple[Photo, bool]]:
    """Lists the files of a name, and whether they come from a folder.

    Raises:
        InputError: there are none.
    """
    if path.is_dir():
        files = files_below(path, _SUFFIXES)
        if all(_is_video(file) for file in files):
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
            advice = f"name its {len(files)} videos to look at their frames" if files else "add some"
            raise InputError(f"{path}: the folder has no images ({suffixes}); {advice}")
        return [(_below(path, file), True) for file in files]
    if os.path.lexists(path):
        return [(Photo(path, path.name), False)]
    if glob.has_magic(str(path)):
        return _matching_files(path)
    raise InputError(f"{path}: no such file or folder; check the path")


def _matching_files(pattern: Path) -> list[tuple[Photo, bool]]:
    """Lists the photos and videos that match a pattern, and those in folders that match it."""
    root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts))
    named = []
    for match in map(Path, sorted(glob.glob(str(pattern), recursive=True))):
        if not match.is_dir():
            named += [(_below(root, match), False)] if match.suffix.lower() in _SUFFIXES else []
        # "**" matches folders and, beside them, the files in them.
        elif "**" not in pattern.parts:
            named += [(_below(root, file), True) for file in files_below(match, _SUFFIXES)]
    if not named:
        raise InputError(f"{pattern}: no photo or video matches the pattern; check it")
    return named


def _below(root: Path, path: Path) -> Photo:
    return Photo(path, str(path.relative_to(root)))


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def check_photo(photo: Photo) -> InputError | None:
    """Reads the header of a photo, or the first frame of a video, and returns the error if there is one.

    Example:
        >>> check_photo(Photo(Path("gone.jpg"), "gone.jpg"))
        InputError('gone.jpg: cannot be read (No such file or directory); check the path')
    """
    try:
        if _is_video(photo.path):
            next(read_frames(photo.path))
            return None
        width, height = image_size(photo.path)
    except InputError as error:
        if _is_heic(photo.path):
            return InputError(f"{photo.path}: HEIC cannot be read; export the photo as JPEG")
        return error
    if width * height > MAX_PIXELS:
        return InputError(
            f"{photo.path}: {width}x{height} is over the limit of {MAX_PIXELS} pixels; shrink it"
        )
    return None


def _is_heic(path: Path) -> bool:
    """Returns whether a file is HEIC by its suffix or, under another suffix, by its first bytes."""
    if path.suffix.lower() in HEIC_SUFFIXES:
        return path.is_file()
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError:
        return False
    return head[4:8] == b"ftyp" and head[8:] in _HEIC_BRANDS


def read_frames(path: Path | str, every: int = 1) -> Iterator[tuple[int, Image]]:
    """Decodes frames of a video, turned upright as its file says.

    Args:
        path: the video.
        every: each so many frames one is decoded, beginning with the first.

    Yields:
        the number of the frame, from 0, and the frame, uint8 (H, W, 3) RGB.

    Raises:
        InputError: the file cannot be read, its frames are too large, or it has none that OpenCV can decode.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     writer = cv2.VideoWriter(f"{folder}/a.avi", cv2.VideoWriter_fourcc(*"MJPG"), 10, (100, 80))
        ...     written = [writer.write(np.zeros((80, 100, 3), np.uint8)) for _ in range(5)]
        ...     writer.release()
        ...     [(number, frame.shape) for number, frame in read_frames(f"{folder}/a.avi", every=2)]
        [(0, (80, 100, 3)), (2, (80, 100, 3)), (4, (80, 100, 3))]
    """
    with VideoStream(path) as file:
        capture = _capture(file)
        count = 0
        try:
            width, height = capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
            check_pixels(int(width), int(height), str(path), MAX_PIXELS)
            for number, frame in _decoded_frames(capture, every):
                count += 1
                yield number, frame
        finally:
            capture.release()
    if not count:
        raise InputError(f"{path}: not a video that OpenCV can decode; convert it to MP4 (H.264)")


def _capture(file: Any) -> Any:
    # A stream and not the path, which OpenCV would take as UTF-8. OpenCV's types lack streams of Python.
    return cv2.VideoCapture(file, cv2.CAP_FFMPEG, [])


def count_frames(path: Path, every: int = 1) -> int:
    """Counts the frames that `read_frames` gives, by what the file states, which may be wrong; 0: unknown.

    Raises:
        InputError: the file cannot be read.
    """
    with VideoStream(path) as file:
        capture = _capture(file)
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT) if capture.isOpened() else 0
        capture.release()
    return max(0, -(-int(count) // every)) if math.isfinite(count) else 0


def read_camera(index: int, every: int = 1) -> Iterator[tuple[int, Image]]:
    """Decodes frames of a camera until the caller stops.

    Args:
        index: of the camera, from 0.
        every: each so many frames one is decoded.

    Yields:
        as `read_frames`.

    Raises:
        InputError: there is no such camera, or it gives no frames.
    """
    capture = cv2.VideoCapture(index)
    if not capture.isOpened():
        raise InputError(f"camera {index}: cannot be opened; check that it is connected and not in use")
    # The newest frame, not one that waited while the detector was at work.
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    try:
        yield from _decoded_frames(capture, every)
    finally:
        capture.release()
    raise InputError(f"camera {index}: gives no more frames; check that it is still connected")


def _decoded_frames(capture: Any, every: int) -> Iterator[tuple[int, Image]]:
    for number in itertools.count():
        if not capture.grab():
            return
        if number % every == 0:
            decoded, frame = capture.retrieve()
            if decoded:
                yield number, np.ascontiguousarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
