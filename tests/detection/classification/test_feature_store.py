"""Stored vectors: they equal computed vectors, and may be deleted at any time."""

import errno
from pathlib import Path

import cv2
import numpy as np
import pytest

from sppnet.common.errors import InputError
from sppnet.data import read_image
from sppnet.detection.backbones import build_network
from sppnet.detection.classification.feature_store import FeatureStore
from sppnet.detection.classification.image_features import ImageFeatureExtractor, ImageFeatureSettings

SETTINGS = ImageFeatureSettings("warp", (32,), levels=(1,))
GIGABYTE = 10**9
# The bytes of a file with the vectors of two images, 256 float16 numbers each.
FILE = 32 + 2 * 256 * 2


class Counting(ImageFeatureExtractor):
    """An extractor that counts the vectors it has computed."""

    count = 0

    def __call__(self, image):
        self.count += 1
        return super().__call__(image)


@pytest.fixture(scope="module")
def network():
    return build_network("zf5", "random")


@pytest.fixture
def extractor(network):
    return Counting(network, SETTINGS)


@pytest.fixture
def images(tmp_path):
    """Five image files."""
    rng = np.random.default_rng(0)
    files = [tmp_path / f"{number}.png" for number in range(5)]
    for file in files:
        cv2.imwrite(str(file), cv2.resize(rng.integers(0, 256, (3, 4, 3), np.uint8), (48, 40)))
    return files


def read(extractor, folder, images, max_bytes=GIGABYTE):
    """Returns the vectors, the number of computed vectors, and the calls of progress; two images a file."""
    calls, before = [], extractor.count
    store = FeatureStore(folder, extractor, max_bytes, images_per_file=2)
    vectors = store.read(images, lambda done, total: calls.append((done, total)))
    return vectors, extractor.count - before, calls


def directly(extractor, images):
    return np.stack([extractor(read_image(image)) for image in images])


def test_stored_vectors_are_those_that_were_computed(extractor, images, tmp_path):
    first, computed, calls = read(extractor, tmp_path / "store", images)
    assert computed == 5
    assert calls == [(0, 5), (2, 5), (4, 5), (5, 5)]
    assert first.dtype == np.float16
    np.testing.assert_array_equal(first, directly(extractor, images).astype(np.float16))
    assert len(np.unique(first, axis=0)) == 5
    second, computed, again = read(extractor, tmp_path / "store", images)
    assert computed == 0
    assert again == calls
    np.testing.assert_array_equal(second, first)


def test_no_images(extractor, tmp_path):
    vectors, _, calls = read(extractor, tmp_path / "store", [])
    assert vectors.shape == (0, extractor.length)
    assert calls == [(0, 0)]
    assert not (tmp_path / "store").exists()


def test_images_are_known_by_what_is_in_them(extractor, images, tmp_path):
    first, _, _ = read(extractor, tmp_path / "store", images)
    moved = [image.rename(tmp_path / f"moved-{image.name}") for image in images]
    vectors, computed, _ = read(extractor, tmp_path / "store", moved)
    assert computed == 0
    np.testing.assert_array_equal(vectors, first)
    moved[2].write_bytes(moved[0].read_bytes())
    vectors, computed, _ = read(extractor, tmp_path / "store", moved)
    assert computed == 2
    np.testing.assert_array_equal(vectors, first[[0, 1, 0, 3, 4]])


@pytest.mark.parametrize("damage", ["emptied", "cut", "flipped", "zeroed", "gone"])
def test_a_damaged_file_is_as_good_as_none(extractor, images, tmp_path, caplog, damage):
    first, _, _ = read(extractor, tmp_path / "store", images)
    files = [file for file in (tmp_path / "store").iterdir() if file.stat().st_size == FILE]
    assert len(files) == 2
    whole = files[0].read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    zeroed = whole[:middle] + bytes(len(whole) - middle)
    broken = {"emptied": b"", "cut": whole[:middle], "flipped": flipped, "zeroed": zeroed}
    if damage == "gone":
        files[0].unlink()
    else:
        files[0].write_bytes(broken[damage])
    for expected in (2, 0):
        vectors, computed, _ = read(extractor, tmp_path / "store", images)
        assert computed == expected
        np.testing.assert_array_equal(vectors, first)
    assert files[0].read_bytes() == whole
    # A missing file is no damage.
    assert len(caplog.messages) == (damage != "gone")
    assert all(f"{files[0]}: damaged" in message for message in caplog.messages)


def test_a_damaged_file_makes_room_for_its_successor(extractor, images, tmp_path):
    first, _, _ = read(extractor, tmp_path / "store", images[:2], FILE)
    (file,) = (tmp_path / "store").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    vectors, computed, _ = read(extractor, tmp_path / "store", images[:2], FILE)
    assert computed == 2
    np.testing.assert_array_equal(vectors, first)
    assert file.read_bytes() == whole


def test_the_folder_has_a_bound(extractor, images, tmp_path, caplog):
    first, _, _ = read(extractor, tmp_path / "all", images)
    # There is room for the first file, and a little too little for the second.
    for computed_then in (5, 3):
        caplog.clear()
        vectors, computed, _ = read(extractor, tmp_path / "store", images, 2 * FILE - 1)
        assert computed == computed_then
        np.testing.assert_array_equal(vectors, first)
        assert [file.stat().st_size for file in (tmp_path / "store").iterdir()] == [FILE]
        (message,) = caplog.messages
        assert "bound" in message
        assert str(tmp_path / "store") in message
    _, computed, _ = read(extractor, tmp_path / "store", images[2:4], 2 * FILE)
    assert computed == 2
    _, computed, _ = read(extractor, tmp_path / "store", images, 2 * FILE)
    assert computed == 1


def test_a_bound_of_zero_stores_nothing_and_says_nothing(extractor, images, tmp_path, caplog):
    read(extractor, tmp_path / "store", images, 0)
    assert not (tmp_path / "store").exists()
    assert not caplog.messages


def test_other_settings_and_weights_find_nothing(extractor, network, images, tmp_path):
    read(extractor, tmp_path / "store", images)
    for other in (
        Counting(network, ImageFeatureSettings("crop", (32,), levels=(1,))),
        Counting(build_network("zf5", "random", seed=1), SETTINGS),
    ):
        vectors, computed, _ = read(other, tmp_path / "store", images)
        assert computed == 5
        np.testing.assert_array_equal(vectors, directly(other, images).astype(np.float16))
    # The vectors stored before stay.
    assert read(extractor, tmp_path / "store", images)[1] == 0


def test_a_full_disk_is_a_warning(extractor, images, tmp_path, caplog, monkeypatch):
    def half(self, content):
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", half)
        vectors, computed, _ = read(extractor, tmp_path / "store", images)
    assert computed == 5
    np.testing.assert_array_equal(vectors, directly(extractor, images).astype(np.float16))
    assert not list((tmp_path / "store").iterdir())
    (message,) = caplog.messages
    assert "No space left" in message
    assert read(extractor, tmp_path / "store", images)[1] == 5


def test_a_bad_image_is_named_and_what_was_before_it_is_kept(extractor, images, tmp_path):
    whole = images[3].read_bytes()
    images[3].write_bytes(b"no image")
    with pytest.raises(InputError, match=r"3\.png: not an image"):
        read(extractor, tmp_path / "store", images)
    images[3].write_bytes(whole)
    assert read(extractor, tmp_path / "store", images)[1] == 3
