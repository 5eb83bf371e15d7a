"""Photos of cameras that were held upright: annotations as viewers show them, or as the pixels are stored."""

import io
import json
import logging

import cv2
import exports
import numpy as np
import pytest
from PIL import Image as Pillow

from sppnet.common.files import file_digest
from sppnet.data import load_dataset
from sppnet.data.examples import size_faults
from sppnet.proposals import Key, ProposalCache, SelectiveSearch, fill_cache, image_key, propose_example

UPRIGHT = (48, 64)
BOX = (8, 10, 28, 50)
# The stored picture that a viewer turns into the upright one.
STORED = {3: 2, 6: 1, 8: 3}


@pytest.fixture
def upright():
    """A green picture with a red box, 48 pixels wide and 64 high."""
    image = np.full((UPRIGHT[1], UPRIGHT[0], 3), (20, 160, 20), np.uint8)
    image[BOX[1] : BOX[3], BOX[0] : BOX[2]] = (220, 30, 30)
    return image


def write_photo(path, upright, orientation):
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    stored = Pillow.fromarray(np.ascontiguousarray(np.rot90(upright, STORED[orientation])))
    stream = io.BytesIO()
    stored.save(stream, "JPEG", exif=exif, quality=95)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(stream.getvalue())
    return stored.size


def turned_box(orientation):
    """The box in the stored picture."""
    mask = np.zeros((UPRIGHT[1], UPRIGHT[0]), np.uint8)
    mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 1
    rows, columns = np.nonzero(np.rot90(mask, STORED[orientation]))
    return (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def annotate(folder, form, size, box):
    left, top, right, bottom = map(int, box)
    if form == "voc":
        exports.write_text(
            folder / "a.xml",
            f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>"
            f"<object><name>ball</name><bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin>"
            f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object></annotation>",
        )
    elif form == "coco":
        document = {
            "images": [{"id": 1, "file_name": "a.jpg", "width": size[0], "height": size[1]}],
            "categories": [{"id": 1, "name": "ball"}],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 1, "bbox": [left, top, right - left, bottom - top]}
            ],
        }
        exports.write_text(folder / "train.json", json.dumps(document))
    else:
        middle = [(left + right) / 2 / size[0], (top + bottom) / 2 / size[1]]
        sides = [(right - left) / size[0], (bottom - top) / size[1]]
        exports.write_text(folder / "a.txt", " ".join(map(str, (0, *middle, *sides))))
        exports.write_text(folder / "classes.txt", "ball")


def red_share(example):
    """The part of the box that is red."""
    left, top, right, bottom = np.rint(example.boxes[0]).astype(int)
    pixels = example.read()[top:bottom, left:right].astype(int)
    return (np.abs(pixels - (220, 30, 30)).max(axis=2) < 60).mean()


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("form", ["voc", "coco", "yolo"])
def test_annotations_as_viewers_show_the_photo(tmp_path, upright, orientation, form, caplog):
    write_photo(tmp_path / "a.jpg", upright, orientation)
    annotate(tmp_path, form, UPRIGHT, BOX)
    with caplog.at_level(logging.WARNING):
        dataset = load_dataset(tmp_path)
        assert size_faults(dataset) == {}
    assert dataset[0].size == UPRIGHT
    assert red_share(dataset[0]) > 0.9
    assert "EXIF" not in caplog.text


@pytest.mark.parametrize("orientation", [6, 8])
@pytest.mark.parametrize("form", ["voc", "coco"])
def test_annotations_of_the_stored_pixels_are_taken_so_and_this_is_said(
    tmp_path, upright, orientation, form, caplog
):
    stored = write_photo(tmp_path / "a.jpg", upright, orientation)
    annotate(tmp_path, form, stored, turned_box(orientation))
    dataset = load_dataset(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert size_faults(dataset) == {}
    assert dataset[0].size == stored
    assert red_share(dataset[0]) > 0.9
    assert (
        "1 images have an EXIF orientation, but their annotations are for the pixels as stored" in caplog.text
    )
    assert "of another size" not in caplog.text


def test_without_an_annotated_size_the_photo_is_upright(tmp_path, upright):
    write_photo(tmp_path / "a.jpg", upright, 6)
    annotate(tmp_path, "voc", (0, 0), BOX)
    assert load_dataset(tmp_path)[0].size == UPRIGHT
    assert red_share(load_dataset(tmp_path)[0]) > 0.9


def test_a_stored_size_with_boxes_of_the_upright_photo(tmp_path, upright):
    """Programs that read the size from the header, and show the photo upright."""
    stored = write_photo(tmp_path / "a.jpg", upright, 6)
    # The box reaches below the stored picture, which is 48 pixels high.
    annotate(tmp_path, "voc", stored, BOX)
    assert load_dataset(tmp_path)[0].size == UPRIGHT
    assert red_share(load_dataset(tmp_path)[0]) > 0.9


class TestCaches:
    """Proposals that were computed before orientations were applied are not served for turned photos."""

    @pytest.fixture
    def engine(self):
        return SelectiveSearch("single", max_proposals=50)

    def stale_key(self, example):
        """The key of the time when every photo was decoded as stored."""
        return Key(example.image_id, file_digest(example.path))

    def test_stale_proposals_are_not_served(self, tmp_path, upright, engine):
        write_photo(tmp_path / "a.jpg", upright, 6)
        annotate(tmp_path, "voc", UPRIGHT, BOX)
        (example,) = load_dataset(tmp_path)
        with ProposalCache(tmp_path / "proposals.sqlite", engine) as cache:
            cache.put([(self.stale_key(example), np.array([[0, 0, 1, 1]], np.float32))])
            boxes = propose_example(example, engine, cache)
        assert boxes[:, 2:].max(axis=0).tolist() == list(UPRIGHT)

    @pytest.mark.parametrize("orientation", [1, 6])
    def test_proposals_of_stored_pixels_are_found_again(self, tmp_path, upright, engine, orientation):
        if orientation == 6:
            size = write_photo(tmp_path / "a.jpg", upright, 6)
            annotate(tmp_path, "voc", size, turned_box(6))
        else:
            size = UPRIGHT
            (tmp_path / "a.jpg").write_bytes(cv2.imencode(".jpg", upright)[1].tobytes())
            annotate(tmp_path, "voc", size, BOX)
        (example,) = load_dataset(tmp_path)
        assert image_key(example) == self.stale_key(example)

    @pytest.mark.parametrize("stored", [False, True])
    def test_workers_decode_as_the_annotation_asks(self, tmp_path, upright, engine, stored):
        size = write_photo(tmp_path / "a.jpg", upright, 6)
        annotate(tmp_path, "voc", size if stored else UPRIGHT, turned_box(6) if stored else BOX)
        dataset = load_dataset(tmp_path)
        with ProposalCache(tmp_path / "proposals.sqlite", engine) as cache:
            report = fill_cache(dataset, engine, cache)
            assert (report.computed, report.errors) == (1, {})
            boxes = cache.get(image_key(dataset[0]))
        assert boxes[:, 2:].max(axis=0).tolist() == list(dataset[0].size)
