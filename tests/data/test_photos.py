"""Photos, videos and cameras by name: what is found, what is refused, which frames are decoded."""

import contextlib
import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from sppnet.common.errors import InputError
from sppnet.data.photos import (
    Photo,
    check_photo,
    count_frames,
    read_camera,
    read_frames,
    select_photos,
)
from sppnet.data.video_stream import VideoStream

HEIC = b"\0\0\0\x18ftypheic" + bytes(100)


@pytest.fixture
def folder(tmp_path):
    """Two photos, one of them deeper, a video, a list, and files of the system."""
    for name in (
        "b.JPG",
        "trip/a.png",
        "trip/clip.mp4",
        "notes.txt",
        ".DS_Store",
        "._b.JPG",
        ".hidden/c.png",
    ):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "photos"


@pytest.fixture
def video(tmp_path):
    """Ten frames, each brighter than the one before, in a file whose name is not UTF-8."""
    written = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(written), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for number in range(10):
        # Blue in OpenCV's order of channels.
        writer.write(np.full((48, 64, 3), (20 * number, 0, 0), np.uint8))
    writer.release()
    path = tmp_path / os.fsdecode(b"cl\xefp.avi")
    written.rename(path)
    return path


def names(photos):
    return [photo.name for photo in photos]


def test_a_folder_gives_its_photos_at_any_depth(folder):
    selection = select_photos([folder])
    assert names(selection.photos) == ["b.JPG", "trip/a.png"]
    assert [photo.path for photo in selection.photos] == [folder / "b.JPG", folder / "trip" / "a.png"]
    assert selection.videos == ()
    assert selection.other_videos == (folder / "trip" / "clip.mp4",)
    assert selection.errors == ()


def test_files_are_taken_by_their_own_name_and_once(folder):
    photo, clip = folder / "trip" / "a.png", folder / "trip" / "clip.mp4"
    selection = select_photos([photo, clip, folder, str(photo), folder / "trip" / ".." / "b.JPG"])
    assert names(selection.photos) == ["a.png", "b.JPG"]
    assert names(selection.videos) == ["clip.mp4"]
    assert selection.other_videos == ()


@pytest.mark.parametrize(
    ("pattern", "photos", "videos"),
    [
        ("*.JPG", ["b.JPG"], []),
        ("**/*.png", ["trip/a.png"], []),
        ("*/*", ["trip/a.png"], ["trip/clip.mp4"]),
        ("t*", ["trip/a.png"], []),
        ("**", ["b.JPG", "trip/a.png"], ["trip/clip.mp4"]),
        ("trip/?.[jp][pn]g", ["a.png"], []),
    ],
)
def test_patterns(folder, pattern, photos, videos):
    selection = select_photos([folder / pattern])
    assert selection.errors == ()
    assert names(selection.photos) == photos
    assert names(selection.videos) == videos


def test_a_pattern_passes_over_folders_without_photos(folder):
    (folder / "empty").mkdir()
    selection = select_photos([folder / "*"])
    assert selection.errors == ()
    assert names(selection.photos) == ["b.JPG", "trip/a.png"]
    assert selection.other_videos == (folder / "trip" / "clip.mp4",)


def test_patterns_below_the_working_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert names(select_photos(["*.JPG"]).photos) == ["b.JPG"]
    assert names(select_photos(["../photos/*.JPG"]).photos) == ["b.JPG"]


def test_a_name_with_the_signs_of_a_pattern(folder):
    (folder / "b[1].jpg").touch()
    assert names(select_photos([folder / "b[1].jpg"]).photos) == ["b[1].jpg"]


def test_what_is_not_there_is_named(folder):
    (folder / "empty").mkdir()
    (folder / "films").mkdir()
    (folder / "films" / "a.mov").touch()
    paths = [folder / name for name in ("gone.jpg", "*.gif", "*.txt", "empty", "films", "b.JPG")]
    selection = select_photos(paths)
    assert names(selection.photos) == ["b.JPG"]
    messages = [str(error).removeprefix(f"{folder}/") for error in selection.errors]
    assert messages[:3] == [
        "gone.jpg: no such file or folder; check the path",
        "*.gif: no photo or video matches the pattern; check it",
        "*.txt: no photo or video matches the pattern; check it",
    ]
    assert messages[3].startswith("empty: the folder has no images (")
    assert messages[4].endswith("name its 1 videos to look at their frames")


def test_names_of_photos_and_frames():
    photo = Photo(Path("in/trip.1/a.b.jpg"), "trip.1/a.b.jpg")
    assert (photo.title, photo.file_name, photo.image_id) == (
        "in/trip.1/a.b.jpg",
        "trip.1/a.b.jpg",
        "trip.1/a.b",
    )
    frame = Photo(Path("in/clip.mp4"), "clip.mp4", 7)
    assert (frame.title, frame.image_id) == ("in/clip.mp4#000007", "clip.mp4#000007")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.jpg", None, "cannot be read"),
        ("empty.jpg", b"", "the file is empty"),
        ("text.jpg", b"no image", "not an image"),
        ("photo.heic", HEIC, "HEIC cannot be read; export the photo as JPEG"),
        ("photo.HEIF", b"anything", "HEIC cannot be read"),
        ("renamed.jpg", HEIC, "HEIC cannot be read"),
        ("gone.heic", None, r"cannot be read \(No such file"),
        ("clip.mp4", b"no video", "not a video that OpenCV can decode"),
        ("gone.mp4", None, r"cannot be read \(No such file"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    error = check_photo(Photo(path, name))
    with pytest.raises(InputError, match=f"{name}: {message}"):
        raise error


def test_a_photo_of_too_many_pixels_is_refused(tmp_path):
    # A PNG is as large as its header says.
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (20_000).to_bytes(4, "big") * 2 + bytes(20)
    (tmp_path / "large.png").write_bytes(header)
    error = check_photo(Photo(tmp_path / "large.png", "large.png"))
    assert "20000x20000 is over the limit" in str(error)


def test_good_files_pass(tmp_path, video):
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((20, 30, 3), np.uint8))
    assert check_photo(Photo(tmp_path / "a.jpg", "a.jpg")) is None
    assert check_photo(Photo(video, video.name)) is None


@pytest.mark.parametrize(("every", "numbers"), [(1, [*range(10)]), (3, [0, 3, 6, 9]), (4, [0, 4, 8])])
def test_frames_of_a_video(video, every, numbers):
    frames = dict(read_frames(video, every))
    assert list(frames) == numbers
    assert count_frames(video, every) == len(numbers)
    for number, frame in frames.items():
        assert frame.shape == (48, 64, 3)
        assert frame.dtype == np.uint8
        assert frame[..., :2].max() < 20
        np.testing.assert_allclose(frame[..., 2], 20 * number, atol=8)


class Camera:
    """A camera of three frames."""

    def __init__(self, index, opened=True):
        self.index, self.opened, self.left = index, opened, 3
        self.released = False

    def isOpened(self):
        return self.opened

    def set(self, name, value):
        return name == cv2.CAP_PROP_BUFFERSIZE and value == 1

    def grab(self):
        self.left -= 1
        return self.left >= 0

    def retrieve(self):
        return True, np.full((2, 3, 3), (1, 2, 3), np.uint8)

    def release(self):
        self.released = True


def test_frames_of_a_camera(monkeypatch):
    camera = Camera(1)
    monkeypatch.setattr(cv2, "VideoCapture", lambda index: camera if index == 1 else None)
    frames = read_camera(1, 2)
    number, frame = next(frames)
    assert number == 0
    assert frame[0, 0].tolist() == [3, 2, 1]
    assert next(frames)[0] == 2
    with pytest.raises(InputError, match="camera 1: gives no more frames"):
        next(frames)
    assert camera.released


def test_a_camera_is_released_when_the_caller_stops(monkeypatch):
    camera = Camera(0)
    monkeypatch.setattr(cv2, "VideoCapture", lambda index: camera)
    frames = read_camera(0)
    next(frames)
    frames.close()
    assert camera.released


def test_without_a_camera_the_error_is_clear(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", lambda index: Camera(index, opened=False))
    with pytest.raises(InputError, match="camera 5: cannot be opened; check that it is connected"):
        next(read_camera(5))


def test_a_damaged_video_ends_in_an_error_and_not_in_a_crash(tmp_path):
    """OpenCV crashes where a stream raises, as a file does for a position before its beginning."""
    path = tmp_path / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (100, 80))
    for _ in range(5):
        writer.write(np.zeros((80, 100, 3), np.uint8))
    writer.release()
    whole = path.read_bytes()
    assert len(list(read_frames(path))) == 5
    data = bytearray(whole)
    size = data.index(b"movi") - 4
    data[size : size + 4] = struct.pack("<I", 0xC0000000)
    path.write_bytes(data)
    with contextlib.suppress(InputError):
        list(read_frames(path))
    with VideoStream(path) as stream:
        assert stream.seek(-5) == -1
        assert stream.seek(-len(whole) - 1, 2) == -1
        assert (stream.seek(4), stream.read(2)) == (4, whole[4:6])


def test_a_video_of_too_large_frames(tmp_path, monkeypatch):
    path = tmp_path / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (100, 80))
    writer.write(np.zeros((80, 100, 3), np.uint8))
    writer.release()
    # A video of over 100 megapixels takes seconds to make.
    monkeypatch.setattr("sppnet.data.photos.MAX_PIXELS", 7999)
    with pytest.raises(InputError, match=r"a\.avi: 100x80 is over the limit"):
        next(read_frames(path))
