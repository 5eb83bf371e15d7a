"""Data sets as sequences of examples."""

import numpy as np
import pytest

from sppnet.data import Dataset, Example


@pytest.fixture
def dataset(tmp_path):
    examples = tuple(
        Example(
            str(number), tmp_path / f"{number}.png", 100, 80, np.tile(np.float32([0, 0, 9, 9]), (number, 1)),
            np.zeros(number, np.int64), np.zeros(number, bool), np.zeros(number, bool),
        )
        for number in range(4)
    )  # fmt: skip
    return Dataset("toys", "train", ("cup", "hat"), examples, (3, 8), {str(k): k for k in range(4)})


def ids(dataset):
    return [example.image_id for example in dataset]


def test_index_gives_an_example(dataset):
    assert dataset[1] is dataset.examples[1]
    assert dataset[-1] is dataset.examples[3]
    assert dataset[np.int64(2)] is dataset.examples[2]
    with pytest.raises(IndexError):
        dataset[4]


def test_slice_gives_a_data_set(dataset):
    part = dataset[1:3]
    assert isinstance(part, Dataset)
    assert ids(part) == ["1", "2"]
    assert (part.name, part.split, part.classes) == ("toys", "train", ("cup", "hat"))
    assert (part.category_ids, part.image_ids) == (dataset.category_ids, dataset.image_ids)
    assert ids(dataset[::-1]) == ["3", "2", "1", "0"]


def test_is_a_sequence(dataset):
    assert len(dataset) == 4
    assert ids(dataset) == ["0", "1", "2", "3"]
    assert ids(reversed(dataset)) == ["3", "2", "1", "0"]
    assert dataset[2] in dataset
    assert dataset.index(dataset[2]) == 2


def test_head_and_without(dataset):
    assert ids(dataset.head(2)) == ["0", "1"]
    assert ids(dataset.head(None)) == ids(dataset)
    assert ids(dataset.without({"0", "2"})) == ["1", "3"]


def test_digest_follows_the_annotations(dataset):
    assert dataset[:].digest() == dataset.digest()
    assert dataset[1:].digest() != dataset.digest()


def test_repr_counts(dataset):
    assert repr(dataset) == "Dataset(toys train: 4 images, 2 classes, 6 objects)"
    many = Dataset("toys", "train", ("cup",), dataset.examples * 500)
    assert repr(many) == "Dataset(toys train: 2,000 images, 1 classes, 3,000 objects)"
