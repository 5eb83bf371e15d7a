"""Reading and writing the files of other programs."""

import contextlib
import io
import pickle
import sqlite3
import struct
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from sppnet.common.errors import InputError
from sppnet.proposals import OpenCVSelectiveSearch, ProposalCache, image_key
from sppnet.proposals.exchange import export_boxes, import_boxes, read_boxes
from sppnet.proposals.mat_check import check_mat

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
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


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


def test_what_cannot_be_exported_shows_before_anything_is_read(files, cache, tmp_path):
    cache.put([(image_key(file), BOXES[file.image_id]) for file in files])
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="file: is a file; give a folder to write to"):
        export_boxes(tmp_path / "file" / "out.npz", files, cache)
    # The number of boxes that an entry states. An entry that is read is found to hold fewer.
    with contextlib.closing(sqlite3.connect(cache.path)) as database, database:
        database.execute("UPDATE proposals SET count = 140000000 WHERE image_id = 'b'")
    with pytest.raises(InputError, match=r"out\.mat: 140,000,002 boxes take 4\.5 GB, .* write an \.npz"):
        export_boxes(tmp_path / "out.mat", files, cache)


def test_the_size_of_mat_is_known_before_it_is_written():
    """56 bytes a cell and 32 a box, as `export_boxes` counts them."""
    for count in (0, 1, 7):
        sizes = []
        for cell_count in (3, 4):
            file = io.BytesIO()
            savemat(file, {"boxes": cells([np.ones((count, 4))] * cell_count)}, do_compression=False)
            sizes.append(len(file.getvalue()))
        assert sizes[1] - sizes[0] == 56 + 32 * count


def dimensions_of(content, *sides):
    """Where a MATLAB file states these sides of an array."""
    found = [at for at in range(0, len(content), 4) if content[at : at + 8] == struct.pack("<ii", *sides)]
    assert found
    return found[0]


@pytest.mark.parametrize("sides", [(1, 2**31 - 1), (1, -2), (2**16, 2**16), (1, 1)])
def test_a_mat_that_states_another_number_of_cells(files, cache, tmp_path, sides):
    write_mat(tmp_path / "m.mat", BOXES)
    content = bytearray((tmp_path / "m.mat").read_bytes())
    at = dimensions_of(content, 1, 2)
    content[at : at + 8] = struct.pack("<ii", *sides)
    (tmp_path / "m.mat").write_bytes(content)
    with pytest.raises(InputError, match=r"m\.mat: .*cells, 2 of them are there"):
        import_boxes(tmp_path / "m.mat", files, cache)


# Cells of text and of numbers; SciPy ends the process on some of these.
TEXT, NUMBER = np.array(["a"]), np.array([[1.0, 2, 3, 4]])


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("cell", "old", "new"),
    [
        # The name of an array is cut out, so that the next array stands where its numbers should.
        (TEXT, struct.pack("<II", 1, 0) + struct.pack("<HH", 16, 1), struct.pack("<HH", 16, 1)),
        (NUMBER, struct.pack("<II", 1, 0) + struct.pack("<II", 9, 32), struct.pack("<II", 9, 32)),
        (NUMBER, struct.pack("<II", 9, 32), struct.pack("<II", 14, 32)),
        (NUMBER, struct.pack("<II", 9, 32), struct.pack("<II", 9, 24)),
        (NUMBER, struct.pack("<II", 9, 32), struct.pack("<II", 0x90009, 32)),
        (NUMBER, struct.pack("<IIII", 6, 8, 6, 0), struct.pack("<IIII", 6, 8, 0x806, 0)),
        (NUMBER, struct.pack("<IIii", 5, 8, 1, 4), struct.pack("<IIii", 5, 1, 1, 4)),
        (TEXT, struct.pack("<HH", 16, 1), struct.pack("<HH", 14, 1)),
        (TEXT, struct.pack("<IIii", 5, 8, 1, 1), struct.pack("<IIii", 5, 1, 1, 1)),
    ],
)
def test_a_mat_whose_elements_do_not_fit(cell, old, new, compressed):
    file = io.BytesIO()
    savemat(file, {"boxes": cells([cell, cell])})
    whole = file.getvalue()
    check_mat(stored(whole, compressed), frozenset({"boxes"}))
    assert whole.count(old) == 2
    # In the last cell alone.
    at = whole.rindex(old)
    damaged = whole[:at] + new + whole[at + len(old) :]
    with pytest.raises(ValueError, match=r"an element|an array|a text|no header|cell"):
        check_mat(stored(damaged, compressed), frozenset({"boxes"}))


def stored(content, compressed):
    """A MATLAB file of one variable, whose element is compressed or not."""
    if not compressed:
        return content
    element = zlib.compress(content[128:])
    return content[:128] + struct.pack("<II", 15, len(element)) + element


def test_a_mat_that_swells(files, cache, tmp_path):
    zeros = {"a": np.zeros((0, 4)), "b": np.zeros((2_100_000, 4))}
    savemat(tmp_path / "m.mat", {"boxes": cells(list(zeros.values()))}, do_compression=True)
    with pytest.raises(InputError, match=r"m\.mat: .*over 100 times larger"):
        import_boxes(tmp_path / "m.mat", files, cache)


def test_an_npz_that_swells(files, cache, tmp_path):
    np.savez_compressed(tmp_path / "m.npz", a=np.zeros((4_100_000, 4), np.float32))
    with pytest.raises(InputError, match=r"m\.npz: 0\.1 GB when decompressed"):
        import_boxes(tmp_path / "m.npz", files, cache)


@pytest.mark.parametrize("value", [np.ones((1, 4), complex), np.ones((1, 4), bool), np.array([["a"] * 4])])
def test_boxes_that_are_no_numbers(files, cache, tmp_path, value):
    np.savez(tmp_path / "m.npz", a=value)
    with pytest.raises(InputError, match=r"m\.npz: image a: boxes are .*, not numbers"):
        import_boxes(tmp_path / "m.npz", files, cache)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), compressed=st.booleans(), form=st.sampled_from(["mat", "npz"]))
def test_no_damage_to_an_archive_crashes(files, tmp_path, data, compressed, form):
    path = tmp_path / f"m.{form}"
    if form == "npz":
        (np.savez_compressed if compressed else np.savez)(path, **BOXES)
    else:
        names = {"images": cells([np.array([name]) for name in BOXES])}
        boxes = {"boxes": cells([published(boxes) for boxes in BOXES.values()])}
        savemat(path, names | boxes, do_compression=compressed)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        read_boxes(path, files)
