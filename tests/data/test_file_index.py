"""Files found by names of other programs, and never outside of the folder."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sppnet.common.errors import InputError
from sppnet.data.file_index import FileIndex
from sppnet.data.split_names import canonical_split, choose_split, sorted_splits


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("index")
    for name in (
        "set/images/train/a.jpg", "set/images/val/a.jpg", "set/images/b c.JPG", "set/images/1a2b3c4d-d.jpg",
        "set/e.jpg", "set/.hidden/f.jpg", "outside.jpg", "set/images/1a2b3c4d-e.jpg",
    ):  # fmt: skip
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root / "set"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("images/train/a.jpg", ["images/train/a.jpg"]),
        ("train/a.jpg", ["images/train/a.jpg"]),
        ("a.jpg", ["images/train/a.jpg", "images/val/a.jpg"]),
        ("../../somewhere/images/val/a.jpg", ["images/val/a.jpg"]),
        ("/data/upload/3/b c.JPG", ["images/b c.JPG"]),
        ("C:\\photos\\b c.JPG", ["images/b c.JPG"]),
        ("/data/upload/3/b%20c.JPG", ["images/b c.JPG"]),
        ("http://host:8080/data/local-files/?d=photos/b%20c.JPG", ["images/b c.JPG"]),
        ("upload/5/1a2b3c4d-d.jpg", ["images/1a2b3c4d-d.jpg"]),
        ("upload/5/1a2b3c4d-e.jpg", ["images/1a2b3c4d-e.jpg"]),
        ("upload/5/99999999-e.jpg", ["e.jpg"]),
        ("f.jpg", []),
        ("../outside.jpg", []),
        ("../../../../etc/passwd", []),
        ("", []),
        ("..", []),
    ],
)
def test_resolve(folder, text, names):
    index = FileIndex(folder)
    assert [index.name(path) for path in index.resolve(text, ("images", ""))] == names


@given(text=st.text(alphabet="a./\\:?=%2e~-\0", max_size=40))
def test_nothing_outside_is_found(folder, text):
    for path in FileIndex(folder).resolve(text):
        assert path.is_relative_to(folder)


def test_pair_keys(folder):
    index = FileIndex(folder)
    assert index.pair_key(folder / "train/Images/a.b.jpg") == ("train", "a.b")
    assert index.pair_key(folder / "labels/train/a.b.txt") == ("train", "a.b")
    assert index.pair_key(folder / "Annotations/labels.xml") == ("labels",)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((name, "val") for name in ("valid", "Validation", "obj_valid_data")),
        *((name, "train") for name in ("TRAIN", "train2017", "obj_train_data")),
        *((name, name) for name in ("default", "2017")),
        ("test_2014", "test"),
        ("test-dev2017", "test-dev"),
    ],
)
def test_canonical_splits(name, split):
    assert canonical_split(name) == split


def test_a_split_of_two_years_must_be_named_whole():
    names = ("train2014", "train2017", "val2017")
    assert choose_split(names, "train2014", Path("coco")) == "train2014"
    assert choose_split(names, "val", Path("coco")) == "val2017"
    with pytest.raises(InputError, match="split 'train' may be train2014 or train2017; name one of them"):
        choose_split(names, "train", Path("coco"))
    assert sorted_splits(["b", "test", "a", "valid", "train"]) == ("train", "valid", "test", "a", "b")
