"""Division of a data set: complete, without overlap, evenly over the classes, and lists on disk."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import dataset, example, photo

from sppnet.common.errors import InputError
from sppnet.data import Dataset, Example, load_dataset, load_voc, split_dataset, write_voc
from sppnet.data.splits import split_lists
from sppnet.data.splitting import write_lists


def bare(counts, folder):
    """Examples with so many objects of each class; their files are missing, and not needed."""
    examples = []
    for number, row in enumerate(counts):
        labels = np.repeat(np.arange(len(row)), row)
        boxes, flags = (
            np.tile(np.array([0, 0, 9, 9], np.float32), (len(labels), 1)),
            np.zeros(len(labels), bool),
        )
        examples.append(
            Example(f"{number:04d}", folder / f"{number:04d}.jpg", 10, 10, boxes, labels, flags, flags)
        )
    return Dataset("bare", "all", tuple("abcdefghij"[: len(counts[0])]), tuple(examples))


def ids(part):
    return [item.image_id for item in part]


def objects(part):
    return np.bincount(np.concatenate([item.labels for item in part]), minlength=len(part.classes))


def deviations(whole, parts, fractions):
    """Objects of each class in each part, minus the part's share."""
    shares = {"train": 1 - sum(fractions.values()), **fractions}
    return np.array([objects(part) - shares[name] * objects(whole) for name, part in parts.items()])


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=3, max_size=40),
    test=st.sampled_from([0.02, 0.2, 0.5]),
    val=st.sampled_from([0.02, 0.1, 0.3]),
    seed=st.integers(0, 3),
)
def test_every_image_is_in_one_part(tmp_path_factory, counts, test, val, seed):
    whole = bare(counts, tmp_path_factory.getbasetemp())
    parts = split_dataset(whole, {"val": val, "test": test}, seed)
    assert list(parts) == ["train", "val", "test"]
    assert sorted(image_id for part in parts.values() for image_id in ids(part)) == ids(whole)
    for name, part in parts.items():
        assert len(part) > 0
        assert part.split == name
        assert part.classes == whole.classes
        assert ids(part) == sorted(ids(part))
    if test != 0.02 and val != 0.02:
        for name, share in (("val", val), ("test", test)):
            assert abs(len(parts[name]) - max(round(share * len(whole)), 1)) <= 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "fractions", [{"test": 0.2}, {"val": 0.1, "test": 0.2}, {"test": 0.05}], ids=["20", "10+20", "5"]
)
def test_classes_have_their_shares(tmp_path, seed, fractions):
    rng = np.random.default_rng(7)
    # From rare to frequent; a third of the images has no objects, some have many.
    counts = rng.poisson([0.05, 0.1, 0.3, 1.0, 1.5], (300, 5)) * (rng.random((300, 1)) < 0.66)
    whole = bare(counts.tolist(), tmp_path)
    parts = split_dataset(whole, fractions, seed)
    assert np.abs(deviations(whole, parts, fractions)).max() <= 1
    empty = sum(not len(item.labels) for item in whole)
    for name, share in fractions.items():
        assert len(parts[name]) == round(share * len(whole))
        assert (
            abs(sum(not len(item.labels) for item in parts[name]) - share * empty) < 0.5 * share * empty + 2
        )


def test_one_seed_one_division(tmp_path):
    counts = np.random.default_rng(0).integers(0, 3, (60, 3)).tolist()
    first, again, other = (
        split_dataset(bare(counts, tmp_path), {"test": 0.2}, seed)["test"] for seed in (0, 0, 1)
    )
    whole = bare(counts, tmp_path)
    turned = split_dataset(replace(whole, examples=whole.examples[::-1]), {"test": 0.2})["test"]
    assert ids(turned) == ids(first)
    assert ids(first) == ids(again)
    assert ids(first) != ids(other)


def test_images_without_any_objects(tmp_path):
    parts = split_dataset(bare([(0, 0)] * 10, tmp_path), {"test": 0.3})
    assert [len(part) for part in parts.values()] == [7, 3]


def test_real_voc(voc_root):
    whole = load_voc(voc_root, "test")
    fractions = {"val": 0.1, "test": 0.2}
    parts = split_dataset(whole, fractions)
    assert {name: len(part) for name, part in parts.items()} == {"train": 433, "val": 62, "test": 124}
    # 3 of 20 classes have most of their objects in a few images, which cannot be divided.
    off = np.abs(deviations(whole, parts, fractions))
    assert (off <= 1).mean() > 0.9
    assert off.max() < 2


def test_copies_stay_together(tmp_path):
    examples = [example(photo(tmp_path / f"{number}.png", seed=number // 3)) for number in range(30)]
    for seed in range(3):
        parts = split_dataset(dataset(*examples), {"test": 0.3}, seed)
        groups = [{int(image_id) // 3 for image_id in ids(part)} for part in parts.values()]
        assert not groups[0] & groups[1]
        assert len(parts["test"]) == 9


@pytest.mark.parametrize(
    "fractions", [{}, {"test": 0.0}, {"test": 1.0}, {"val": 0.5, "test": 0.5}, {"test": -0.1}, {"train": 0.5}]
)
def test_fractions_out_of_range(tmp_path, fractions):
    with pytest.raises(InputError, match="give each part a fraction above 0, together below 1"):
        split_dataset(bare([(1,)] * 5, tmp_path), fractions)


def test_too_few_images(tmp_path):
    with pytest.raises(InputError, match="1 different images cannot be divided into 2 parts"):
        split_dataset(bare([(1,)], tmp_path), {"test": 0.5})
    same = [example(photo(tmp_path / f"{name}.png")) for name in "ab"]
    with pytest.raises(InputError, match="1 different images"):
        split_dataset(dataset(*same), {"test": 0.5})


class TestLists:
    def test_in_voc_s_layout(self, tmp_path):
        folder = tmp_path / "set"
        whole = dataset(
            *(example(tmp_path / f"{number}.png", seed=number) for number in range(10)), split="all"
        )
        write_voc(whole, folder)
        images = sorted(path.name for path in (folder / "JPEGImages").iterdir())
        parts = split_dataset(whole, {"test": 0.2})
        assert write_lists(parts, folder) == [folder / f"ImageSets/Main/{name}.txt" for name in parts]
        for name, part in parts.items():
            assert ids(load_dataset(folder, name)) == ids(part)
        assert sorted(path.name for path in (folder / "JPEGImages").iterdir()) == images

    def test_lists_are_not_overwritten_unless_asked(self, tmp_path):
        (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
        old = tmp_path / "ImageSets" / "Main" / "trainval.txt"
        old.write_text("a\n")
        (old.parent / "dog_train.txt").write_text("a -1\n")
        parts = split_dataset(bare([(1,)] * 5, tmp_path), {"test": 0.2})
        with pytest.raises(InputError, match=r"has lists already \(trainval\.txt\); give --force"):
            write_lists(parts, tmp_path)
        assert sorted(path.name for path in old.parent.iterdir()) == ["dog_train.txt", "trainval.txt"]
        write_lists(parts, tmp_path, force=True)
        # A trainval that stays would be trained on, with the images of the new test in it.
        names = ["dog_train.txt", "test.txt", "train.txt", "trainval.txt.old"]
        assert sorted(path.name for path in old.parent.iterdir()) == names

    def test_elsewhere(self, tmp_path):

        examples = [example(tmp_path / f"a b/ü {number}.png", seed=number) for number in range(4)]
        parts = {"train": dataset(*examples[1:]), "test": dataset(examples[0])}
        write_lists(parts, tmp_path)
        assert split_lists(tmp_path) == {
            "test": ("a b/ü 0.png",),
            "train": ("a b/ü 1.png", "a b/ü 2.png", "a b/ü 3.png"),
        }

    def test_image_outside_of_the_folder(self, tmp_path):
        parts = {"train": dataset(example(tmp_path / "a.png"))}
        (tmp_path / "set").mkdir()
        with pytest.raises(InputError, match="give the folder that holds the images, too"):
            write_lists(parts, tmp_path / "set")
