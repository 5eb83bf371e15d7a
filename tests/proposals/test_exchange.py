"""Reading and writing the files of other programs."""

import pickle
import zipfile
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from scipy.io import loadmat, savemat

from sppnet.common.errors import InputError
from sppnet.proposals import OpenCVSelectiveSearch, ProposalCache, image_key
from sppnet.proposals.exchange import export_boxes, import_boxes, read_boxes

HEIGHT, WIDTH = 30, 50
# 0-based, right and bottom exclusive; the first is the whole image.
BOXES = {
    "a": np.array([[0, 0, WIDTH, HEIGHT], [3, 4, 45, 10]], np.float32),
    "b": np.array([[1, 2, 11, 22]], np.float32),
}


class File(NamedTuple):
    image_id: str
    path: Path


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def files(tmp_path):
    written = []
    for name in BOXES:
        path = tmp_path / f"{name}.png"
        cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), ord(name), np.uint8))
        written.append(File(name, path))
    return written


@pytest.fixture
def cache(tmp_path):
    with ProposalCache(tmp_path / "proposals.sqlite", OpenCVSelectiveSearch()) as opened:
        yield opened


def cells(values):
    array = np.empty(len(values), object)
    for index, value in enumerate(values):
        array[index] = value
    return array


def published(boxes):
    """Converts to [y1 x1 y2 x2], 1-based, inclusive: the exclusive edge x2 is the last pixel's number."""
    rows = [[y1 + 1, x1 + 1, y2, x2] for x1, y1, x2, y2 in boxes.tolist()]
    return np.array(rows, np.float64).reshape(-1, 4)


def write_mat(path, by_id, convert=published, **cells_by_name):
    content = {
        "images": cells([np.array([name]) for name in by_id]).reshape(-1, 1),
        "boxes": cells([convert(boxes) for boxes in by_id.values()]).reshape(1, -1),
    }
    savemat(path, content | cells_by_name)


def check_imported(files, cache):
    for file in files:
        np.testing.assert_array_equal(cache.get(image_key(file)), BOXES[file.image_id])


def test_the_published_mat(files, cache, tmp_path):
    write_mat(tmp_path / "published.mat", BOXES)
    assert import_boxes(tmp_path / "published.mat", files, cache) == 2
    check_imported(files, cache)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_mat_of_other_number_types(files, cache, tmp_path, dtype):
    write_mat(tmp_path / "m.mat", BOXES, lambda boxes: published(boxes).astype(dtype))
    import_boxes(tmp_path / "m.mat", files, cache)
    check_imported(files, cache)


def test_npz(files, cache, tmp_path):
    np.savez(tmp_path / "boxes.npz", **BOXES)
    assert import_boxes(tmp_path / "boxes.npz", files, cache) == 2
    check_imported(files, cache)


@pytest.mark.parametrize("suffix", [".mat", ".npz"])
def test_round_trip(files, cache, tmp_path, suffix):
    cache.put([(image_key(file), BOXES[file.image_id]) for file in files])
    path = tmp_path / f"out{suffix}"
    assert export_boxes(path, files, cache) == 2
    with ProposalCache(tmp_path / "second.sqlite", OpenCVSelectiveSearch()) as second:
        assert import_boxes(path, files, second) == 2
        check_imported(files, second)
    assert not list(tmp_path.glob(".out*"))


def test_exported_mat_is_in_the_published_layout(files, cache, tmp_path):
    cache.put([(image_key(file), BOXES[file.image_id]) for file in files])
    export_boxes(tmp_path / "out.mat", files, cache)
    content = loadmat(tmp_path / "out.mat")
    assert [str(cell.item()) for cell in content["images"].ravel()] == ["a", "b"]
    assert content["boxes"].dtype == object
    np.testing.assert_array_equal(content["boxes"].ravel()[0], [[1, 1, HEIGHT, WIDTH], [5, 4, 10, 45]])


@pytest.mark.parametrize("image_id", ["file", "a/b", "a b"])
def test_npz_of_any_id(files, cache, tmp_path, image_id):
    file = files[0]._replace(image_id=image_id)
    cache.put([(image_key(file), BOXES["a"])])
    export_boxes(tmp_path / "out.npz", [file], cache)
    np.testing.assert_array_equal(read_boxes(tmp_path / "out.npz", [file])[image_id], BOXES["a"])


@pytest.mark.parametrize("suffix", [".mat", ".npz"])
def test_an_image_without_boxes(files, cache, tmp_path, suffix):
    cache.put([(image_key(file), np.zeros((0, 4), np.float32)) for file in files])
    export_boxes(tmp_path / f"out{suffix}", files, cache)
    with ProposalCache(tmp_path / "second.sqlite", OpenCVSelectiveSearch()) as second:
        assert import_boxes(tmp_path / f"out{suffix}", files, second) == 2
        assert second.get(image_key(files[0])).shape == (0, 4)


def test_images_that_are_not_in_the_file_are_left_alone(files, cache, tmp_path):
    np.savez(tmp_path / "boxes.npz", b=BOXES["b"], other=BOXES["a"])
    assert import_boxes(tmp_path / "boxes.npz", files, cache) == 1
    assert cache.get(image_key(files[0])) is None


@pytest.mark.parametrize(
    "convert",
    [
        lambda boxes: published(boxes)[:, [1, 0, 3, 2]],
        lambda boxes: published(boxes) - 1,
        lambda boxes: published(boxes) + 0.5,
        lambda boxes: published(boxes)[:, [2, 3, 0, 1]],
        lambda boxes: published(boxes)[:, :3],
        lambda boxes: np.where(published(boxes) == HEIGHT, np.nan, published(boxes)),
    ],
    ids=["x_before_y", "from_0", "fractions", "inverted", "three_columns", "nan"],
)
def test_mat_in_another_format_is_refused_whole(files, cache, tmp_path, convert):
    write_mat(tmp_path / "wrong.mat", BOXES, convert)
    with pytest.raises(InputError, match=r"wrong\.mat: image a"):
        import_boxes(tmp_path / "wrong.mat", files, cache)
    assert cache.get(image_key(files[1])) is None


@pytest.mark.parametrize(
    "boxes",
    [BOXES["a"] + 1, BOXES["a"] - 1, BOXES["a"][:, [1, 0, 3, 2]], BOXES["a"].astype(str)],
    ids=["from_1", "negative", "y_before_x", "text"],
)
def test_npz_in_another_format(files, cache, tmp_path, boxes):
    np.savez(tmp_path / "wrong.npz", a=boxes)
    with pytest.raises(InputError, match=r"wrong\.npz: image a"):
        import_boxes(tmp_path / "wrong.npz", files, cache)


@pytest.mark.parametrize("name", ["missing.mat", "missing.npz", "boxes.txt", "boxes"])
def test_no_such_file_or_format(files, cache, tmp_path, name):
    with pytest.raises(InputError, match=name):
        import_boxes(tmp_path / name, files, cache)


@pytest.mark.parametrize("name", ["broken.mat", "broken.npz"])
@pytest.mark.parametrize("content", [b"", b"no such format " * 100, b"PK\x03\x04" + bytes(200)])
def test_a_file_that_is_something_else(files, cache, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        import_boxes(tmp_path / name, files, cache)


def test_a_truncated_mat(files, cache, tmp_path):
    write_mat(tmp_path / "m.mat", BOXES)
    content = (tmp_path / "m.mat").read_bytes()
    (tmp_path / "m.mat").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"m\.mat"):
        import_boxes(tmp_path / "m.mat", files, cache)


def test_a_mat_of_something_else(files, cache, tmp_path):
    savemat(tmp_path / "other.mat", {"x": np.zeros(3)})
    with pytest.raises(InputError, match="published proposals"):
        import_boxes(tmp_path / "other.mat", files, cache)


def test_a_mat_with_fewer_boxes_than_images(files, cache, tmp_path):
    write_mat(tmp_path / "short.mat", BOXES, boxes=cells([published(BOXES["a"])]))
    with pytest.raises(InputError, match="2 images, but boxes of 1"):
        import_boxes(tmp_path / "short.mat", files, cache)


def test_another_split(files, cache, tmp_path):
    np.savez(tmp_path / "boxes.npz", zebra=BOXES["a"])
    with pytest.raises(InputError, match="zebra"):
        import_boxes(tmp_path / "boxes.npz", files, cache)


def test_objects_are_not_unpickled(files, cache, tmp_path):
    trap = tmp_path / "executed"
    array = np.empty(1, object)
    array[0] = Touch(trap)
    np.savez(tmp_path / "evil.npz", a=array)
    with pytest.raises(InputError, match=r"evil\.npz"):
        import_boxes(tmp_path / "evil.npz", files, cache)
    (tmp_path / "evil.npz").write_bytes(pickle.dumps(Touch(trap)))
    with pytest.raises(InputError, match=r"evil\.npz"):
        import_boxes(tmp_path / "evil.npz", files, cache)
    assert not trap.exists()


def test_names_inside_an_npz_lead_nowhere(files, cache, tmp_path):
    folder = tmp_path / "inner"
    folder.mkdir()
    np.save(tmp_path / "a.npy", BOXES["a"])
    with zipfile.ZipFile(folder / "evil.npz", "w") as archive:
        archive.write(tmp_path / "a.npy", "../../a.npy")
    with pytest.raises(InputError, match="choose its split"):
        import_boxes(folder / "evil.npz", files, cache)
    assert [file.name for file in folder.iterdir()] == ["evil.npz"]


def test_export_without_proposals(files, cache, tmp_path):
    cache.put([(image_key(files[0]), BOXES["a"])])
    with pytest.raises(InputError, match="image b has no boxes"):
        export_boxes(tmp_path / "out.npz", files, cache)
    assert not (tmp_path / "out.npz").exists()


def test_export_into_a_folder_in_the_way(files, cache, tmp_path):
    cache.put([(image_key(file), BOXES[file.image_id]) for file in files])
    (tmp_path / "out.npz").mkdir()
    with pytest.raises(InputError, match=r"out\.npz"):
        export_boxes(tmp_path / "out.npz", files, cache)


def test_other_boxes_under_the_same_name_are_refused(files, cache, tmp_path):
    np.savez(tmp_path / "first.npz", **BOXES)
    np.savez(tmp_path / "second.npz", a=BOXES["a"], b=BOXES["b"] + 1)
    import_boxes(tmp_path / "first.npz", files, cache)
    assert import_boxes(tmp_path / "first.npz", files, cache) == 2
    with pytest.raises(InputError, match=r"second\.npz: image b: .* has other boxes of this name already"):
        import_boxes(tmp_path / "second.npz", files, cache)
    check_imported(files, cache)
