"""Boxes to fine-tune on: IoU, fractions, mirrored images, scales; and the batches made of them."""

from dataclasses import replace

import numpy as np
import pytest

from sppnet.common.errors import InputError
from sppnet.data.images import read_image
from sppnet.detection.backbones import build_network
from sppnet.detection.features.extractor import SPPExtractor
from sppnet.detection.training import TrainingData
from sppnet.detection.training.finetuning_settings import (
    PAPER_FINETUNING,
    RELEASED_FINETUNING,
    FineTuningSettings,
)
from sppnet.detection.training.window_batches import RegionDraw, VectorFile
from sppnet.detection.training.window_sampling import BACKGROUND, RegionSampler, label_regions
from sppnet.eval import box_iou
from sppnet.proposals import ProposalCache, image_key

SETTINGS = FineTuningSettings(proposals_per_image=16)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder that keeps proposals and feature maps for all tests."""
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture
def extractor(tiny_settings):
    return SPPExtractor(build_network("alexnet", "random"), tiny_settings.features)


@pytest.fixture
def make(tiny_train, tiny_settings, prepared, extractor):
    """Returns a function that makes a sampler on the tiny data set."""
    caches = []

    def sampler(settings=SETTINGS, scales=(96,), difficult=False, maps=prepared / "maps"):
        cache = ProposalCache(prepared / "proposals.sqlite", tiny_settings.proposals)
        caches.append(cache)
        data = TrainingData(tiny_train, tiny_settings.proposals, cache, maps, 10**9)
        return RegionSampler(data, at_scales(extractor, scales), settings, difficult)

    yield sampler
    for cache in caches:
        cache.close()


def at_scales(extractor, scales):
    return SPPExtractor(extractor.network, replace(extractor.settings, scales=scales))


def boxes_of_iou(box, values):
    """Returns parts of ``box`` that have the given IoU with it."""
    left, top, right, bottom = box
    return np.array([[left, top, left + part * (right - left), bottom] for part in values], np.float32)


def test_labels_follow_the_greatest_iou(tiny_train):
    example = replace(
        tiny_train[0],
        boxes=np.float32([[0, 0, 100, 10], [0, 20, 100, 30]]),
        labels=np.array([1, 0]),
        difficult=np.array([False, True]),
    )
    values = [1.0, 0.5, 0.49, 0.1, 0.09]
    boxes = np.concatenate([boxes_of_iou(box, values) for box in example.boxes])
    positives, labels, negatives = label_regions(example, boxes, SETTINGS, difficult=False)
    assert (positives.tolist(), labels.tolist(), negatives.tolist()) == ([0, 1], [1, 1], [2, 3, 7, 8])
    positives, labels, _ = label_regions(example, boxes, SETTINGS, difficult=True)
    assert (positives.tolist(), labels.tolist()) == ([0, 1, 5, 6], [1, 1, 0, 0])
    empty = replace(example, boxes=example.boxes[:0], labels=example.labels[:0], difficult=np.zeros(0, bool))
    assert [len(indices) for indices in label_regions(empty, boxes, SETTINGS, False)] == [0, 0, 0]
    anywhere = replace(SETTINGS, negative_iou_range=(0.0, 0.5))
    assert len(label_regions(empty, boxes, anywhere, False)[2]) == 10


def test_fractions(make, tiny_train):
    regions = make().draw(range(6), 1, 16, augment=True)
    for index, example in enumerate(tiny_train):
        of_image = regions.only(np.flatnonzero(regions.images == index))
        positive = of_image.labels != BACKGROUND
        # There is always a positive, because ground truth is among the boxes to draw from.
        assert 1 <= positive.sum() <= 4
        assert (~positive).sum() <= 12
        iou = box_iou(of_image.boxes, example.boxes)
        nearest, greatest = iou.argmax(axis=1), iou.max(axis=1)
        assert (greatest[positive] >= 0.5).all()
        assert ((greatest[~positive] >= 0.1) & (greatest[~positive] < 0.5)).all()
        assert (example.labels[nearest][positive] == of_image.labels[positive]).all()
        assert not example.difficult[nearest][positive].any()
    first = regions.images == 0
    assert len(np.unique(regions.boxes[first], axis=0)) == first.sum()


def same(first, second):
    return all(
        np.array_equal(getattr(first, name), getattr(second, name))
        for name in ("images", "boxes", "labels", "mirrored", "scales")
    )


def test_a_draw_depends_on_its_number(make):
    first = make().draw(range(6), 1, 8, augment=True)
    assert same(first, make().draw(range(6), 1, 8, augment=True))
    assert not same(first, make().draw(range(6), 2, 8, augment=True))
    # The boxes drawn from an image do not depend on the other images.
    alone = make().draw([3], 1, 8, augment=True)
    np.testing.assert_array_equal(alone.boxes, first.boxes[first.images == 3])


@pytest.mark.parametrize("scales", [(96,), (64, 96)], ids=["one scale", "two scales"])
def test_augmentation(make, scales):
    regions = make(scales=scales).draw(range(6), 1, 16, augment=True)
    assert 0.2 < regions.mirrored.mean() < 0.8
    assert set(regions.scales.tolist()) == ({-1} if len(scales) == 1 else {0, 1})
    plain = make(scales=scales).draw(range(6), 1, 16, augment=False)
    assert not plain.mirrored.any()
    assert set(plain.scales.tolist()) == {-1}
    off = replace(SETTINGS, flip=False, random_scale=False)
    assert same(make(off, scales).draw(range(6), 1, 16, augment=True), plain)


@pytest.mark.parametrize("scales", [(96,), (64, 96)], ids=["one scale", "two scales"])
def test_vectors_equal_vectors_extracted_box_by_box(make, tiny_train, extractor, scales):
    """For a mirrored region, the mirrored box is extracted from the map of the mirrored image."""
    sampler = make(scales=scales)
    regions = sampler.draw([1, 4], 1, 16, augment=True)
    seen = []
    for indices, vectors in sampler.vectors(regions):
        seen += indices.tolist()
        for index, vector in zip(indices, vectors, strict=True):
            image = read_image(tiny_train[int(regions.images[index])].path)
            left, top, right, bottom = regions.boxes[index]
            if regions.mirrored[index]:
                image = np.ascontiguousarray(image[:, ::-1])
                left, right = image.shape[1] - right, image.shape[1] - left
            scale = scales[max(int(regions.scales[index]), 0)]
            alone = at_scales(extractor, (scale,))
            maps = alone.prepare(image)
            expected = alone.extract(maps, np.float32([[left, top, right, bottom]])).features[0]
            np.testing.assert_allclose(vector, expected, rtol=2e-3, atol=1e-3)
    assert seen == list(range(len(regions)))


def test_mirrored_maps_are_stored(make, tmp_path, monkeypatch):
    sampler = make(maps=tmp_path)
    regions = sampler.draw(range(6), 1, 16, augment=True)
    first = np.concatenate([vectors for _, vectors in sampler.vectors(regions)])

    def compute(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(SPPExtractor, "prepare", compute)
    again = np.concatenate([vectors for _, vectors in make(maps=tmp_path).vectors(regions)])
    np.testing.assert_array_equal(first, again)


def test_no_regions(make):
    regions = make().draw([], 1, 16, augment=True)
    assert len(regions) == 0
    assert list(make().vectors(regions)) == []


def test_the_file_of_vectors(make, extractor, tmp_path):
    sampler = make()
    regions = sampler.draw(range(6), 1, 16, augment=True)
    expected = np.concatenate([vectors for _, vectors in sampler.vectors(regions)]) * np.float32(0.5)
    file = VectorFile(tmp_path / "new" / "a.f16", extractor.length)
    seen = []
    file.fill(sampler, regions, 0.5, lambda done, total: seen.append((done, total)))
    rows = np.random.default_rng(0).permutation(len(regions))[:20]
    np.testing.assert_array_equal(file.read(rows), expected[rows].astype(np.float16).astype(np.float32))
    assert file.read(rows[:0]).shape == (0, extractor.length)
    assert (seen[0], seen[-1]) == ((0, len(regions)), (len(regions), len(regions)))
    with pytest.raises(OSError, match="shorter"):
        file.read(np.array([len(regions)]))
    file.close()
    assert not (tmp_path / "new" / "a.f16").exists()


def test_vectors_beyond_float16(make, extractor, tmp_path):
    sampler = make()
    regions = sampler.draw([0], 1, 16, augment=False)
    with pytest.raises(InputError, match="exceed float16"):
        VectorFile(tmp_path / "a.f16", extractor.length).fill(sampler, regions, 1e9, lambda *_: None)


class RowNumbers:
    """Replaces the file of vectors: the vector of a region is its row number in the file."""

    def read(self, rows):
        return rows[:, None].astype(np.float32)


def batches(labels, share, steps, number=1, **changes):
    settings = replace(SETTINGS, batch=8, draw_steps=10, **changes)
    drawn = RegionDraw(RowNumbers(), np.asarray(share), np.asarray(labels), 2, settings, number)
    return [drawn.batch(step) for step in steps]


def test_batches_hold_a_quarter_of_positives():
    labels = np.array([0, 1, 0, 1, *[2] * 30])
    drawn = batches(labels, range(34), range(10))
    for vectors, batch_labels, count in drawn:
        assert (count, len(batch_labels)) == (8, 8)
        assert (batch_labels < 2).sum() == 2
        np.testing.assert_array_equal(labels[vectors[:, 0].long()], batch_labels)
    # A step has 2 of the 4 positives and 6 of the 30 negatives. Every row comes once before any comes again.
    for first in (0, 2):
        rows = np.concatenate([vectors[:2, 0] for vectors, _, _ in drawn[first : first + 2]])
        assert sorted(rows) == [0, 1, 2, 3]
    rows = np.concatenate([vectors[2:, 0] for vectors, _, _ in drawn[:5]])
    assert sorted(rows) == list(range(4, 34))


def test_the_batch_of_a_step_does_not_depend_on_the_first_step():
    labels = np.array([0, 1, 0, *[2] * 11])
    whole, later = batches(labels, range(14), range(10)), batches(labels, range(14), range(6, 10))
    for (expected, _, _), (vectors, _, _) in zip(whole[6:], later, strict=True):
        assert (vectors == expected).all()
    second = batches(labels, range(14), range(10, 20), number=2)
    assert any(
        (vectors != expected).any() for (expected, _, _), (vectors, _, _) in zip(whole, second, strict=True)
    )


def test_processes_share_a_batch():
    labels = np.array([0, 1, 0, 1, *[2] * 30])
    shares = np.arange(0, 34, 2), np.arange(1, 34, 2)
    for step in range(5):
        ((whole, _, _),) = batches(labels, range(34), [step])
        indices = []
        for share in shares:
            ((vectors, batch_labels, count),) = batches(labels, share, [step])
            assert count == 8
            drawn = share[vectors[:, 0].long()]
            np.testing.assert_array_equal(labels[drawn], batch_labels)
            indices += drawn.tolist()
        assert sorted(indices) == sorted(whole[:, 0].tolist())


def test_batches_without_negatives():
    ((vectors, labels, count),) = batches([0, 1, 1], range(3), [0])
    assert (len(vectors), len(labels), count) == (2, 2, 2)


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


def test_the_store_is_shared_with_detection(make, tiny_train, extractor, tmp_path, monkeypatch):
    """Fine-tuning reads the maps that training or detection stored."""
    store = extractor.store(tmp_path, 10**9)
    for example in tiny_train:
        store.get(
            image_key(example).image_digest, lambda path=example.path: extractor.prepare(read_image(path))
        )
    sampler = make(maps=tmp_path)
    regions = sampler.draw(range(6), 1, 16, augment=False)

    def compute(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(SPPExtractor, "prepare", compute)
    assert sum(len(vectors) for _, vectors in sampler.vectors(regions)) == len(regions) > 0
