"""Hard negative mining against a slow and obvious reference, and in bounded memory."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from sppnet.svm import (
    PAPER_MINING,
    RELEASED_MINING,
    HardNegativeMiner,
    MiningSettings,
    MiningStatistics,
    Problem,
    SolverSettings,
    train_svms,
)
from sppnet.svm.mining import NEVER

CLASSES, DIMENSION, NORM_FACTOR = 3, 24, 0.5
EXACT = SolverSettings(tolerance=2e-5, max_sweeps=100_000)
TIGHT = MiningSettings(retrain_after=25, interim_tolerance=2e-5, solver=replace(EXACT, cost=0.02))
ROW_BYTES = DIMENSION + 4 + 4 + 5 * CLASSES + 16 + 1


def make_positives(labels=(0, 0, 0, 1, 1, 2, 2, 2)):
    labels = np.array(labels)
    rng = np.random.default_rng(99)
    centres = 6 * np.eye(CLASSES, DIMENSION)
    return (8 * rng.random((len(labels), DIMENSION)) + centres[labels]).astype(np.float32), labels


def make_image(key, count=40):
    rng = np.random.default_rng(key)
    features = (8 * rng.random((count, DIMENSION))).astype(np.float32)
    features[:, :CLASSES] += 4 * rng.random((count, CLASSES), np.float32)
    max_iou = np.where(rng.random((count, CLASSES)) < 0.3, rng.random((count, CLASSES)), 0).astype(np.float32)
    corner = rng.uniform(0, 60, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(20, 40, (count, 2))], 1).astype(np.float32)
    return features, max_iou, boxes


def make_miner(settings=TIGHT, rows=10_000, labels=(0, 0, 0, 1, 1, 2, 2, 2), **options):
    miner = HardNegativeMiner(
        CLASSES, DIMENSION, settings, NORM_FACTOR, memory_bytes=rows * ROW_BYTES, **options
    )
    miner.add_positives(*make_positives(labels))
    return miner


def feed(miner, keys):
    for key in keys:
        miner.add_image(key, *make_image(key))


def held(miner):
    """Returns for each class the (image, sample) pairs of its negatives."""
    state = miner.state()
    pairs = list(zip(state["keys"].tolist(), state["windows"].tolist(), strict=True))
    return [
        {pairs[row] for row in np.flatnonzero(state["held"][:, label]) if pairs[row][0] >= 0}
        for label in range(CLASSES)
    ]


def stored(rows):
    """Rounds rows as the store does: 127 steps up to the largest magnitude of each row."""
    unit = np.abs(rows).max(axis=-1, keepdims=True) / 127
    return (np.rint(rows / unit) * unit * NORM_FACTOR).astype(np.float32)


def train_slowly(positives, cache, settings):
    x = np.concatenate([positives, *(row[None] for row in cache.values())]).astype(np.float32)
    problem = Problem(np.arange(len(x)), np.arange(len(x)) < len(positives))
    (solution,) = train_svms(x, [problem], settings.solver)
    return solution.weights, solution.bias, dict(zip(cache, solution.margins[len(positives) :], strict=True))


def mine_slowly(settings, keys):
    """Mines as the released code does: class by class, everything in memory, no warm starts."""
    positives, labels = make_positives()
    result = []
    for label in range(CLASSES):
        class_positives = stored(positives[labels == label])
        cache: dict[tuple[int, int], np.ndarray] = {}
        added, trained, weights, bias = 0, False, None, None
        for key in keys:
            features, max_iou, boxes = make_image(key)
            chosen = []
            for sample in range(len(features)):
                overlap = max_iou[sample, label]
                inside = overlap <= 0.3 if settings.negative_iou_inclusive else overlap < 0.3
                score = features[sample] * NORM_FACTOR @ weights + bias if trained else 0
                if inside and score > settings.hard_threshold and (key, sample) not in cache:
                    chosen.append((score, sample))
            if settings.duplicate_iou is not None:
                iou = box_iou(torch.from_numpy(boxes), torch.from_numpy(boxes)).numpy()
                kept = [sample for (image, sample) in cache if image == key]
                distinct = []
                for score, sample in sorted(chosen, key=lambda pair: (-pair[0], pair[1])):
                    if all(iou[sample, harder] <= settings.duplicate_iou for harder in kept):
                        kept.append(sample)
                        distinct.append((score, sample))
                chosen = distinct
            for _, sample in chosen:
                cache[key, sample] = stored(features[sample])
            added += len(chosen)
            if not trained or added > settings.retrain_after:
                weights, bias, margins = train_slowly(class_positives, cache, settings)
                cache = {k: v for k, v in cache.items() if margins[k] >= settings.easy_threshold}
                trained, added = True, 0
        weights, bias, margins = train_slowly(class_positives, cache, settings)
        result.append((weights, bias, {k for k in cache if margins[k] >= settings.easy_threshold}))
    return result


@pytest.mark.parametrize(
    "settings",
    [TIGHT, replace(TIGHT, negative_iou_inclusive=True, duplicate_iou=0.5)],
    ids=["released", "paper"],
)
def test_agrees_with_the_obvious_procedure(settings):
    keys = [*range(12), 3, 4]
    miner = make_miner(settings)
    feed(miner, keys)
    svms = miner.finish()
    statistics = miner.statistics()
    assert statistics.evicted.sum() > 20, "the data must exercise eviction"
    assert statistics.trainings.min() > 2, "and retraining"
    assert not statistics.forced.any()
    for label, (weights, bias, cache) in enumerate(mine_slowly(settings, keys)):
        assert held(miner)[label] == cache
        np.testing.assert_allclose(svms.weights[label], weights, atol=0.01 * np.abs(weights).max())
        assert svms.bias[label] == pytest.approx(bias, abs=0.01)


def test_presets_are_the_published_constants():
    assert RELEASED_MINING.hard_threshold == -1.0001
    assert RELEASED_MINING.easy_threshold == -1.2
    assert RELEASED_MINING.retrain_after == 2000
    assert RELEASED_MINING.duplicate_iou is None
    assert not RELEASED_MINING.negative_iou_inclusive
    assert PAPER_MINING.negative_iou_inclusive
    assert PAPER_MINING.duplicate_iou == 0.7
    solver = RELEASED_MINING.solver
    assert (solver.cost, solver.bias_multiplier, solver.positive_weight) == (1e-3, 10, 2)


@pytest.mark.parametrize(("inclusive", "expected"), [(False, {(0, 0)}), (True, {(0, 0), (0, 1)})])
def test_overlap_of_exactly_the_threshold(inclusive, expected):
    miner = make_miner(replace(TIGHT, negative_iou_inclusive=inclusive, easy_threshold=-np.inf))
    features, _, _ = make_image(0, 3)
    overlap = np.repeat(np.array([[0.2], [0.3], [0.31]], np.float32), CLASSES, 1)
    miner.add_image(0, features, overlap)
    assert held(miner) == [expected] * CLASSES


def test_kept_rows_are_hard_and_dropped_rows_are_easy():
    miner = make_miner()
    feed(miner, range(6))
    svms = miner.finish()
    for label, pairs in enumerate(held(miner)):
        assert pairs
        for key, sample in pairs:
            assert svms.score(make_image(key)[0][[sample]])[0, label] >= -1.2001
    statistics = miner.statistics()
    np.testing.assert_array_equal(statistics.held, [len(pairs) for pairs in held(miner)])
    np.testing.assert_array_equal(statistics.added - statistics.evicted - statistics.forced, statistics.held)
    # Rows that no class holds are free again.
    assert statistics.rows == len(set.union(*held(miner))) + 8


@pytest.mark.parametrize("rows", [9, 60, 90], ids=["one_negative", "tight", "roomy"])
def test_memory_is_bounded(rows):
    miner = make_miner(rows=rows)
    feed(miner, range(10))
    svms = miner.finish()
    statistics = miner.statistics()
    assert statistics.capacity == rows
    assert statistics.rows <= rows
    assert statistics.forced.sum() > 0
    np.testing.assert_array_equal(statistics.added - statistics.evicted - statistics.forced, statistics.held)
    assert np.isfinite(svms.weights).all()
    # Positives are never dropped.
    positives, labels = make_positives()
    state = miner.state()
    kept = state["rows"][:8] * state["units"][:8, None]
    largest = np.abs(positives * NORM_FACTOR).max(axis=1, keepdims=True)
    assert (np.abs(kept - positives * NORM_FACTOR) <= largest / 253).all()
    assert state["held"][np.arange(8), labels].all()


def test_forced_eviction_keeps_the_hardest():
    miner = make_miner(replace(TIGHT, easy_threshold=-np.inf, retrain_after=10**6), rows=60)
    feed(miner, [0])
    svms = miner.finish()
    scores = svms.score(make_image(0)[0])
    state = miner.state()
    hardness = {
        int(sample): scores[sample][state["held"][row]].max()
        for row, sample in enumerate(state["windows"][:48])
        if row >= 8
    }
    features, max_iou, _ = make_image(1)
    new = int(((svms.score(features) > -1.0001) & (max_iou < 0.3)).any(axis=1).sum())
    assert new > 12
    miner.add_image(1, features, max_iou)
    left = {sample for pairs in held(miner) for key, sample in pairs if key == 0}
    assert left == set(sorted(hardness, key=lambda sample: -hardness[sample])[: 52 - new])


def test_interrupted_run_gives_the_result_of_an_unbroken_run():
    whole, broken = make_miner(rows=100), make_miner(rows=100)
    feed(whole, range(12))
    feed(broken, range(5))
    saved = {name: np.array(value) for name, value in broken.state().items()}
    del broken
    resumed = HardNegativeMiner.from_state(saved, TIGHT, NORM_FACTOR, 100 * ROW_BYTES)
    feed(resumed, range(5, 12))
    expected, actual = whole.finish(), resumed.finish()
    np.testing.assert_array_equal(actual.weights, expected.weights)
    np.testing.assert_array_equal(actual.bias, expected.bias)
    assert held(whole) == held(resumed)
    for name in ("images", "held", "added", "evicted", "forced", "trainings", "rows", "capacity"):
        np.testing.assert_array_equal(getattr(whole.statistics(), name), getattr(resumed.statistics(), name))


def test_state_of_another_shape_is_refused():
    miner = make_miner()
    feed(miner, [0])
    state = miner.state()
    with pytest.raises(ValueError, match="enough for 9"):
        HardNegativeMiner.from_state(state, TIGHT, NORM_FACTOR, 9 * ROW_BYTES)
    del state["alphas"]
    with pytest.raises(ValueError, match="lacks 'alphas'"):
        HardNegativeMiner.from_state(state, TIGHT, NORM_FACTOR, 100 * ROW_BYTES)


def test_threads_do_not_change_the_result():
    results = []
    for threads in (1, 2):
        miner = make_miner(threads=threads)
        feed(miner, range(6))
        results.append(miner.finish())
    np.testing.assert_array_equal(results[0].weights, results[1].weights)
    np.testing.assert_array_equal(results[0].bias, results[1].bias)


def test_class_without_positives_is_a_sure_negative():
    miner = make_miner(labels=(0, 0, 0, 0, 2, 2, 2, 2))
    feed(miner, range(4))
    svms = miner.finish()
    assert not svms.weights[1].any()
    assert svms.bias[1] == NEVER
    assert held(miner)[1] == set()
    assert miner.statistics().trainings[1] == 0


def test_image_without_samples_and_float64_and_strided_input():
    plain, strided = make_miner(), make_miner()
    features, max_iou, boxes = make_image(0)
    plain.add_image(0, features, max_iou, boxes)
    strided.add_image(0, np.asfortranarray(features.astype(np.float64)), max_iou[::-1][::-1], boxes)
    for miner in (plain, strided):
        miner.add_image(1, features[:0], max_iou[:0], boxes[:0])
    np.testing.assert_array_equal(plain.finish().weights, strided.finish().weights)
    assert plain.statistics().images == 2


def test_without_images_positives_are_trained():
    assert make_miner().finish().bias.min() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, i, b: (f * np.nan, i, b), "image 4: features: row 0"),
        (lambda f, i, b: (f[:, :5], i, b), r"image 4: features are \(40, 5\)"),
        (lambda f, i, b: (f, i[:, :2], b), r"image 4: max_iou must be \(40, 3\)"),
        (lambda f, i, b: (f, i * np.inf, b), "image 4: max_iou has a value"),
        (lambda f, i, b: (f, i, None), "image 4: boxes"),
    ],
    ids=["nan", "dimension", "classes", "iou", "boxes"],
)
def test_bad_input_is_named_and_leaves_the_miner_as_it_was(change, message):
    miner = make_miner(replace(TIGHT, duplicate_iou=0.7))
    with np.errstate(invalid="ignore"):
        bad = change(*make_image(4))
    with pytest.raises(ValueError, match=message):
        miner.add_image(4, *bad)
    assert miner.statistics().images == 0
    assert miner.statistics().rows == 8


def test_positives_may_come_in_parts():
    positives, labels = make_positives()
    parts = HardNegativeMiner(CLASSES, DIMENSION, TIGHT, NORM_FACTOR, 40 * ROW_BYTES)
    parts.check_room(8)
    with pytest.raises(ValueError, match="too few for 40 positives"):
        parts.check_room(40)
    for part in (slice(0, 3), slice(3, 3), slice(3, 8)):
        parts.add_positives(positives[part], labels[part])
    whole = make_miner(rows=40)
    for miner in (whole, parts):
        for key in range(4):
            miner.add_image(key, *make_image(key))
    expected, actual = whole.finish(), parts.finish()
    np.testing.assert_array_equal(actual.weights, expected.weights)
    np.testing.assert_array_equal(actual.bias, expected.bias)
    with pytest.raises(ValueError, match="before the images"):
        parts.add_positives(positives, labels)


def test_bad_positives_are_named():
    positives, labels = make_positives()
    for features, classes, memory, message in [
        (positives * np.inf, labels, 10**6, "positives: row 0"),
        (positives[:, 1:], labels, 10**6, r"positives are \(8, .*, not \(P, "),
        (positives, labels[:3], 10**6, "8 positives"),
        (positives, labels + 1, 10**6, r"0\.\.2"),
        (positives, labels, 500, "too few for 8 positives"),
    ]:
        miner = HardNegativeMiner(CLASSES, DIMENSION, TIGHT, NORM_FACTOR, memory)
        with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=message):
            miner.add_positives(features, classes)


@pytest.mark.parametrize(
    ("lost", "trainings", "expected"),
    [
        (
            [0, 0],
            [3, 4],
            "kept 12,242 hard negatives of 67,334 that fit; each class trained 3 to 4 times; none lost",
        ),
        ([1000, 2], [3, 3], "each class trained 3 times; 1,002 lost because memory was full"),
    ],
    ids=["all_fit", "lost"],
)
def test_statistics_are_a_sentence(lost, trainings, expected):
    counts = np.array([7000, 6000])
    statistics = MiningStatistics(
        100, counts, counts, counts, counts, np.array(lost), np.array(trainings), 12_250, 67_342, 1.5, 8
    )
    assert str(statistics).endswith(expected)


def test_statistics_count_the_positives():
    miner = make_miner(rows=100)
    feed(miner, [0])
    statistics = miner.statistics()
    assert statistics.positives == 8
    negatives = len(set.union(*held(miner)))
    assert f"kept {negatives} hard negatives of 92 that fit" in str(statistics)


def test_finish_without_some_images_is_a_training_on_the_other_rows():
    miner = make_miner()
    feed(miner, range(6))
    svms = miner.finish()
    before = {name: array.copy() for name, array in miner.state().items()}
    keys, numbers = [1, 4], [0, 2, 3]
    without = miner.finish_without(keys, numbers)
    for name, array in miner.state().items():
        np.testing.assert_array_equal(array, before[name])

    rows = before["rows"] * before["units"][:, None]
    positives = np.arange(len(rows)) < len(make_positives()[1])
    kept = ~np.isin(before["keys"], keys)
    kept[numbers] = False
    for label in range(CLASSES):
        chosen = np.flatnonzero(before["held"][:, label] & kept)
        (expected,) = train_svms(rows, [Problem(chosen, positives[chosen])], TIGHT.solver)
        np.testing.assert_allclose(without.weights[label], expected.weights, atol=2e-3)
        assert without.bias[label] == pytest.approx(expected.bias, abs=2e-3)
        assert not np.allclose(without.weights[label], svms.weights[label], atol=2e-3)


def test_finish_without_all_positives_of_a_class():
    miner = make_miner()
    feed(miner, range(3))
    miner.finish()
    svms = miner.finish_without([], [3, 4])
    assert svms.bias[1] == NEVER
    assert not svms.weights[1].any()
    assert (np.delete(svms.bias, 1) != NEVER).all()
    everything = miner.finish_without([], [])
    np.testing.assert_allclose(everything.weights, miner.finish().weights, atol=2e-3)
