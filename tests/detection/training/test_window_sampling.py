"""Windows to fine-tune on: overlaps, fractions, mirrored images, scales; the batches made of them."""

from dataclasses import replace

import numpy as np
import pytest

from sppnet.common.errors import InputError
from sppnet.data.images import read_image
from sppnet.detection.backbones import build_network
from sppnet.detection.features.extractor import FeatureExtractor
from sppnet.detection.features.map_store import MapStore
from sppnet.detection.training import TrainingData
from sppnet.detection.training.finetuning_settings import (
    PAPER_FINETUNING,
    RELEASED_FINETUNING,
    FineTuningSettings,
)
from sppnet.detection.training.window_batches import Drawn, WindowFile
from sppnet.detection.training.window_sampling import BACKGROUND, WindowSampler, label_windows
from sppnet.eval import box_iou
from sppnet.proposals import ProposalCache

SETTINGS = FineTuningSettings(proposals_per_image=16)


@pytest.fixture
def make(tiny_train, tiny_settings, tmp_path):
    """A sampler on the tiny data set."""
    caches = []

    def sampler(settings=SETTINGS, scales=(96,), difficult=False):
        cache = ProposalCache(tmp_path / "proposals.sqlite", tiny_settings.proposals)
        caches.append(cache)
        extractor = FeatureExtractor(
            build_network("alexnet", "random"), replace(tiny_settings.features, scales=scales)
        )
        data = TrainingData(tiny_train, tiny_settings.proposals, cache, tmp_path / "maps", 10**9)
        return WindowSampler(data, extractor, settings, difficult)

    yield sampler
    for cache in caches:
        cache.close()


def boxes_of_overlap(box, overlaps):
    """Boxes of the given IoU with ``box``: parts of it."""
    left, top, right, bottom = box
    return np.array([[left, top, left + part * (right - left), bottom] for part in overlaps], np.float32)


def test_labels_follow_the_greatest_overlap(tiny_train):
    example = replace(
        tiny_train[0],
        boxes=np.float32([[0, 0, 100, 10], [0, 20, 100, 30]]),
        labels=np.array([1, 0]),
        difficult=np.array([False, True]),
    )
    overlaps = [1.0, 0.5, 0.49, 0.1, 0.09]
    boxes = np.concatenate([boxes_of_overlap(box, overlaps) for box in example.boxes])
    positives, labels, negatives = label_windows(example, boxes, SETTINGS, difficult=False)
    assert (positives.tolist(), labels.tolist(), negatives.tolist()) == ([0, 1], [1, 1], [2, 3, 7, 8])
    positives, labels, _ = label_windows(example, boxes, SETTINGS, difficult=True)
    assert (positives.tolist(), labels.tolist()) == ([0, 1, 5, 6], [1, 1, 0, 0])
    empty = replace(example, boxes=example.boxes[:0], labels=example.labels[:0], difficult=np.zeros(0, bool))
    assert [len(one) for one in label_windows(empty, boxes, SETTINGS, False)] == [0, 0, 0]
    anywhere = replace(SETTINGS, negative_iou_range=(0.0, 0.5))
    assert len(label_windows(empty, boxes, anywhere, False)[2]) == 10


def test_fractions(make, tiny_train):
    sampler = make()
    windows = sampler.draw(range(6), 1, 16, augment=True)
    for index, example in enumerate(tiny_train):
        mine = windows.only(np.flatnonzero(windows.images == index))
        positive = mine.labels != BACKGROUND
        # As many positives as there may be: the ground truth windows are among the candidates.
        assert 1 <= positive.sum() <= 4
        assert (~positive).sum() <= 12
        overlap = box_iou(mine.boxes, example.boxes)
        most = overlap.max(axis=1)
        assert (most[positive] >= 0.5).all()
        assert ((most[~positive] >= 0.1) & (most[~positive] < 0.5)).all()
        assert (example.labels[overlap.argmax(axis=1)][positive] == mine.labels[positive]).all()
        assert not example.difficult[overlap.argmax(axis=1)][positive].any()
    assert len(np.unique(windows.boxes[windows.images == 0], axis=0)) == (windows.images == 0).sum()


def same(first, second):
    return all(
        np.array_equal(getattr(first, name), getattr(second, name))
        for name in ("images", "boxes", "labels", "mirrored", "scales")
    )


def test_a_draw_depends_on_its_number(make):
    first = make().draw(range(6), 1, 8, augment=True)
    assert same(first, make().draw(range(6), 1, 8, augment=True))
    assert not same(first, make().draw(range(6), 2, 8, augment=True))
    # Other images do not change which windows of an image are taken.
    alone = make().draw([3], 1, 8, augment=True)
    np.testing.assert_array_equal(alone.boxes, first.boxes[first.images == 3])


@pytest.mark.parametrize("scales", [(96,), (64, 96)], ids=["one scale", "two scales"])
def test_augmentation(make, scales):
    windows = make(scales=scales).draw(range(6), 1, 16, augment=True)
    assert 0.2 < windows.mirrored.mean() < 0.8
    assert set(windows.scales.tolist()) == ({-1} if len(scales) == 1 else {0, 1})
    plain = make(scales=scales).draw(range(6), 1, 16, augment=False)
    assert not plain.mirrored.any()
    assert set(plain.scales.tolist()) == {-1}
    off = replace(SETTINGS, flip=False, random_scale=False)
    assert same(make(off, scales).draw(range(6), 1, 16, augment=True), plain)


@pytest.mark.parametrize("scales", [(96,), (64, 96)], ids=["one scale", "two scales"])
def test_vectors_are_those_of_the_window_seen_alone(make, tiny_train, scales):
    """Mirrored ones: of the mirrored window in the network's map of the mirrored image."""
    sampler = make(scales=scales)
    extractor = sampler._extractor
    windows = sampler.draw([1, 4], 1, 16, augment=True)
    seen = []
    for places, vectors in sampler.vectors(windows):
        seen += places.tolist()
        for place, vector in zip(places, vectors, strict=True):
            image = read_image(tiny_train[int(windows.images[place])].path)
            left, top, right, bottom = windows.boxes[place]
            if windows.mirrored[place]:
                image = np.ascontiguousarray(image[:, ::-1])
                left, right = image.shape[1] - right, image.shape[1] - left
            scale = max(int(windows.scales[place]), 0)
            one = replace(extractor.settings, scales=(scales[scale],))
            alone = FeatureExtractor(extractor.network, one)
            maps = alone.maps(image)
            expected = alone.pool(maps, np.float32([[left, top, right, bottom]])).features[0]
            np.testing.assert_allclose(vector, expected, rtol=2e-3, atol=1e-3)
    assert seen == list(range(len(windows)))


def test_mirrored_maps_are_stored(make, tiny_train, monkeypatch):
    sampler = make()
    windows = sampler.draw(range(6), 1, 16, augment=True)
    first = np.concatenate([vectors for _, vectors in sampler.vectors(windows)])

    def compute(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(FeatureExtractor, "maps", compute)
    again = np.concatenate([vectors for _, vectors in make().vectors(windows)])
    np.testing.assert_array_equal(first, again)


def test_no_windows(make):
    windows = make().draw([], 1, 16, augment=True)
    assert len(windows) == 0
    assert list(make().vectors(windows)) == []


def test_the_file_of_vectors(make, tmp_path):
    sampler = make()
    windows = sampler.draw(range(6), 1, 16, augment=True)
    expected = np.concatenate([vectors for _, vectors in sampler.vectors(windows)]) * np.float32(0.5)
    file = WindowFile(tmp_path / "new" / "a.f16", sampler._extractor.length)
    seen = []
    file.fill(sampler, windows, 0.5, lambda done, total: seen.append((done, total)))
    places = np.random.default_rng(0).permutation(len(windows))[:20]
    np.testing.assert_array_equal(file.read(places), expected[places].astype(np.float16).astype(np.float32))
    assert file.read(places[:0]).shape == (0, sampler._extractor.length)
    assert (seen[0], seen[-1]) == ((0, len(windows)), (len(windows), len(windows)))
    with pytest.raises(OSError, match="shorter"):
        file.read(np.array([len(windows)]))
    file.close()
    assert not (tmp_path / "new" / "a.f16").exists()


def test_vectors_beyond_float16(make, tmp_path):
    sampler = make()
    windows = sampler.draw([0], 1, 16, augment=False)
    with pytest.raises(InputError, match="exceed float16"):
        WindowFile(tmp_path / "a.f16", sampler._extractor.length).fill(sampler, windows, 1e9, lambda *_: None)


class _Places:
    """Stands for the file: a window's vector is its place in the file."""

    def read(self, places):
        return places[:, None].astype(np.float32)


def batches(labels, mine, steps, number=1, **changes):
    settings = replace(SETTINGS, batch=8, draw_steps=10, **changes)
    drawn = Drawn(_Places(), np.asarray(mine), np.asarray(labels), 2, settings, number)
    return [drawn.batch(step) for step in steps]


def test_batches_hold_a_quarter_of_positives():
    labels = np.array([0, 1, 0, 1, *[2] * 30])
    found = batches(labels, range(34), range(10))
    for vectors, of, count in found:
        assert (count, len(of)) == (8, 8)
        assert (of < 2).sum() == 2
        np.testing.assert_array_equal(labels[vectors[:, 0].long()], of)
    # Each comes once before any comes again: 2 of 4 positives in a step, 6 of 30 negatives.
    for first in (0, 2):
        places = np.concatenate([vectors[:2, 0] for vectors, _, _ in found[first : first + 2]])
        assert sorted(places) == [0, 1, 2, 3]
    places = np.concatenate([vectors[2:, 0] for vectors, _, _ in found[:5]])
    assert sorted(places) == list(range(4, 34))


def test_batches_of_a_step_are_the_same_from_anywhere():
    labels = np.array([0, 1, 0, *[2] * 11])
    whole, later = batches(labels, range(14), range(10)), batches(labels, range(14), range(6, 10))
    for (one, _, _), (other, _, _) in zip(whole[6:], later, strict=True):
        assert (one == other).all()
    other = batches(labels, range(14), range(10, 20), number=2)
    assert any((one[0] != two[0]).any() for one, two in zip(whole, other, strict=True))


def test_processes_share_a_batch():
    labels = np.array([0, 1, 0, 1, *[2] * 30])
    shares = np.arange(0, 34, 2), np.arange(1, 34, 2)
    for step in range(5):
        ((whole, _, _),) = batches(labels, range(34), [step])
        parts = []
        for mine in shares:
            ((vectors, of, count),) = batches(labels, mine, [step])
            assert count == 8
            parts += mine[vectors[:, 0].long()].tolist()
            np.testing.assert_array_equal(labels[mine[vectors[:, 0].long()]], of)
        assert sorted(parts) == sorted(whole[:, 0].tolist())


def test_batches_without_negatives():
    ((vectors, of, count),) = batches([0, 1, 1], range(3), [0])
    assert (len(vectors), len(of), count) == (2, 2, 2)


@pytest.mark.parametrize(
    ("settings", "total", "rates"),
    [
        (PAPER_FINETUNING, 300_000, {0: 1e-4, 249_999: 1e-4, 250_000: 1e-5, 299_999: 1e-5}),
        (RELEASED_FINETUNING, 200_000, {29_999: 1e-3, 30_000: 1e-4, 60_000: 1e-5, 199_999: 1e-5}),
        (FineTuningSettings(rates=(0.2,), steps=(100,)), 100, {0: 0.2, 50: 0.1, 75: 0.1 * (1 - 0.5**0.5)}),
    ],
    ids=["paper", "released", "cosine"],
)
def test_schedules(settings, total, rates):
    assert settings.total_steps == total
    assert settings.positives == 32
    for step, rate in rates.items():
        assert settings.rate(step) == pytest.approx(rate)


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 0}, {"batch": 0}, {"dropout": 1.0}, {"validation": 0.0}, {"optimiser": "adam"},
        {"negative_iou_range": (0.5, 0.1)}, {"negative_iou_range": (0.1, 0.6)}, {"rates": ()},
        {"rates": (1.0, 0.1)}, {"rates": (1.0, 0.1), "steps": (5, 5)}, {"choose": "best"}, {"disk_gb": 0.0},
        {"batch": 2}, {"proposals_per_image": 1}, {"positive_fraction": 0.99},
        {"negative_iou_range": (0.1,)}, {"weight_decay": -1.0}, {"initialisation": "zero"},
    ],
)  # fmt: skip
def test_settings_out_of_range(changes):
    with pytest.raises(InputError):
        replace(SETTINGS, **changes)


def test_the_store_is_that_of_detection(make, tiny_settings, tmp_path):
    """Maps that training or detection stored serve here."""
    sampler = make()
    assert sampler._store.folder == MapStore(tmp_path / "maps", sampler._extractor, 0).folder
