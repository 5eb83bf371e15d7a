"""Folders of images by class: which images are listed, in which order, and which folders are refused."""

import logging
import os
import shutil

import cv2
import numpy as np
import pytest

from sppnet.common.errors import InputError
from sppnet.data.image_folder import IMAGE_SUFFIXES, list_images, open_image_folder, split_folders
from sppnet.data.images import read_image


@pytest.fixture
def folder(tmp_path):
    """Two classes, and files that are not images of them. No file is opened, so none needs to be an image."""
    root = tmp_path / "photos"
    for name in (
        "dog/b.jpg", "dog/A.JPEG", "dog/deep/down/c.png", "cat/1.tiff", "cat/2.webp",
        "dog/list.txt", "dog/.hidden.png", "cat/.thumbnails/1.png", ".git/x.png", "README.png",
    ):  # fmt: skip
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


def test_listed_by_class_and_path(folder):
    images = open_image_folder(folder)
    assert images.classes == ("cat", "dog")
    names = [str(path.relative_to(folder)) for path in images.paths]
    assert names == ["cat/1.tiff", "cat/2.webp", "dog/A.JPEG", "dog/b.jpg", "dog/deep/down/c.png"]
    np.testing.assert_array_equal(images.labels, [0, 0, 1, 1, 1])
    assert images.labels.dtype == np.int64
    assert len(images) == 5


def test_labels_by_the_classes_given(folder):
    images = open_image_folder(folder, ("dog", "emu", "cat"))
    assert images.classes == ("dog", "emu", "cat")
    np.testing.assert_array_equal(images.labels, [2, 2, 0, 0, 0])
    with pytest.raises(InputError, match=r"photos.cat: no class of this name among 2"):
        open_image_folder(folder, ("dog", "emu"))


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_splits_in_a_folder_are_told_from_classes(folder, tmp_path, name):
    assert split_folders(folder) is None
    assert split_folders(tmp_path / "absent") is None
    splits = tmp_path / "splits"
    shutil.copytree(folder, splits / "train")
    assert split_folders(splits) == (splits / "train", None)
    for split in (name, "test", ".git"):
        shutil.copytree(folder, splits / split)
    assert split_folders(splits) == (splits / "train", splits / name)
    (splits / "eval").mkdir()
    with pytest.raises(InputError, match=r"splits: train/ holds folders, .* but eval/ beside it"):
        split_folders(splits)


def test_train_can_be_a_class(folder):
    (folder / "train").mkdir()
    assert split_folders(folder) is None


def test_a_name_that_is_not_utf_8_has_a_digest(folder):
    (folder / "dog" / os.fsdecode(b"caf\xe9.jpg")).write_text("x")
    assert len(open_image_folder(folder).digest()) == 64


def test_some_of_the_images(folder):
    images = open_image_folder(folder)
    subset = images.only(np.array([4, 0]))
    assert subset.paths == (images.paths[4], images.paths[0])
    np.testing.assert_array_equal(subset.labels, [1, 0])
    assert subset.classes == images.classes


def test_the_digest_is_of_names(folder, tmp_path):
    digest = open_image_folder(folder).digest()
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "dog" / "list.txt").write_text("something else")
    assert open_image_folder(tmp_path / "copy").digest() == digest
    assert open_image_folder(folder, ("cat", "dog", "emu")).digest() != digest
    # A training can continue after an image that stopped it was repaired.
    (folder / "dog" / "b.jpg").write_text("longer than it was")
    assert open_image_folder(folder).digest() == digest
    (folder / "dog" / "b.jpg").rename(folder / "dog" / "d.jpg")
    assert open_image_folder(folder).digest() != digest


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".gif", ".jp2", ".avif", ".JPG", ".Tif", ".pnm", ".dib"])
def test_every_format_that_the_decoder_reads_is_listed(folder, suffix):
    path = folder / "cat" / f"0{suffix}"
    path.touch()
    assert list_images(folder / "cat")[0] == path
    assert open_image_folder(folder).paths[0] == path


def test_every_suffix_is_of_a_format_that_opencv_decodes(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (100, 120, 3)).astype(np.uint8)
    for suffix in sorted(IMAGE_SUFFIXES - {".jfif", ".dib"}):
        path = tmp_path / f"a{suffix}"
        pixels = picture[..., 0] if suffix in (".pbm", ".pgm") else picture
        path.write_bytes(cv2.imencode(suffix, pixels)[1].tobytes())
        assert read_image(path).shape == picture.shape


def test_heic_photos_are_named_in_one_line(folder, caplog):
    for name in ("x.heic", "y.HEIF"):
        (folder / "cat" / name).touch()
    with caplog.at_level(logging.WARNING):
        list_images(folder)
    assert "photos: 2 HEIC images are left out, the first" in caplog.text
    assert "x.heic; export them as JPEG" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert len(open_image_folder(folder)) == 5
    assert len(caplog.records) == 1


def test_links_to_folders_are_followed_once(folder, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "9.pgm").touch()
    (folder / "cat" / "linked").symlink_to(tmp_path / "linked")
    (folder / "cat" / "round").symlink_to(folder / "cat")
    cats = [str(path.relative_to(folder)) for path in open_image_folder(folder).paths[:3]]
    assert cats == ["cat/1.tiff", "cat/2.webp", "cat/linked/9.pgm"]
    assert list_images(folder / "cat") == [folder / name for name in cats]


@pytest.mark.parametrize("names", [("Train", "Test"), ("training", "validation"), ("val",)])
def test_splits_under_other_names_are_refused(folder, tmp_path, names):
    for name in names:
        shutil.copytree(folder, tmp_path / "splits" / name)
    with pytest.raises(InputError, match="look like splits, not classes"):
        split_folders(tmp_path / "splits")


def test_folders_without_classes_or_images_are_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (folder / "fish").mkdir()
    (folder / "fish" / "notes.txt").touch()
    for path, message in (
        (tmp_path / "absent", "absent: no such folder"),
        (folder / "README.png", "README.png: no such folder"),
        (tmp_path / "empty", "empty: has no folders of classes"),
        (folder, r"fish: a class without images \(\.avif, \.bmp"),
    ):
        with pytest.raises(InputError, match=message):
            open_image_folder(path)
