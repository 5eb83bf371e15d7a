"""Box regression: deltas, ridge regression, and the training sample."""

import math
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from sppnet.common.errors import DamageError
from sppnet.svm import (
    MAX_LOG_SCALE,
    BoxRegressors,
    RegressionSampler,
    RegressionSettings,
    apply_deltas,
    encode_boxes,
)
from sppnet.svm.regression import fit_deltas, ridge

corner = st.floats(0, 500, width=32)
size = st.floats(8, 400, width=32)
box = st.tuples(corner, corner, size, size).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


@given(boxes=st.lists(st.tuples(box, box), min_size=1, max_size=5))
@settings(deadline=None)
def test_encoding_and_applying_are_inverse(boxes):
    start, target = (np.array(side, np.float32) for side in zip(*boxes, strict=True))
    np.testing.assert_allclose(apply_deltas(start, encode_boxes(start, target)), target, atol=2e-3)


def test_deltas_by_hand():
    start, target = np.array([[0, 0, 10, 20]], np.float32), np.array([[10, 5, 30, 15]], np.float32)
    expected = [[(20 - 5) / 10, (10 - 10) / 20, math.log(20 / 10), math.log(10 / 20)]]
    np.testing.assert_allclose(encode_boxes(start, target), expected, rtol=1e-6)


def test_growth_is_limited():
    moved = apply_deltas(np.array([[0, 0, 16, 16]]), np.array([[0, 0, 50.0, MAX_LOG_SCALE + 1]]))
    np.testing.assert_allclose(moved, [[8 - 500, 8 - 500, 8 + 500, 8 + 500]], rtol=1e-6)


@pytest.mark.parametrize(
    "bad", [[5, 5, 5, 9], [5, 5, 4, 9], [np.nan, 0, 1, 1]], ids=["flat", "inverted", "nan"]
)
def test_boxes_without_area(bad):
    good = np.array([[0, 0, 4, 4]], np.float32)
    for start, target in ((good, np.array([bad])), (np.array([bad]), good)):
        with pytest.raises(ValueError, match="x2 > x1"):
            encode_boxes(start, target)


@pytest.mark.parametrize(("count", "dimension"), [(200, 20), (20, 200), (30, 30), (1, 5)])
@pytest.mark.parametrize("penalty", [4000.0, 1.0])
def test_ridge_primal_dual_and_scikit_learn_agree(count, dimension, penalty):
    rng = np.random.default_rng(0)
    x, t = 3 * np.abs(rng.standard_normal((count, dimension))), rng.standard_normal((count, 4))
    weights, bias = ridge(x, t, penalty)
    ones = np.hstack([x, np.ones((count, 1))])
    primal = np.linalg.solve(ones.T @ ones + penalty * np.eye(dimension + 1), ones.T @ t)
    dual = ones.T @ np.linalg.solve(ones @ ones.T + penalty * np.eye(count), t)
    by_sklearn = Ridge(alpha=penalty, fit_intercept=False, solver="cholesky").fit(ones, t).coef_.T
    for expected in (primal, dual, by_sklearn):
        np.testing.assert_allclose(np.vstack([weights, bias]), expected, rtol=1e-7, atol=1e-10)
    single, single_bias = ridge(x.astype(np.float32), t, penalty)
    np.testing.assert_allclose(np.vstack([single, single_bias]), primal, atol=1e-4 * np.abs(primal).max())


def test_whitening_equals_the_released_code():
    rng = np.random.default_rng(1)
    x = rng.random((60, 8))
    t = rng.standard_normal((60, 4)) @ rng.standard_normal((4, 4)) + 3
    options = RegressionSettings(penalty=10)
    mean = t.mean(0)
    values, vectors = np.linalg.eigh(np.cov(t.T, bias=True))
    whiten = vectors @ np.diag(1 / np.sqrt(values + 1e-3)) @ vectors.T
    weights, bias = ridge(x, (t - mean) @ whiten, 10)
    expected = (x @ weights + bias) @ np.linalg.inv(whiten) + mean
    w, b = fit_deltas(x.astype(np.float32), t.astype(np.float32), options)
    np.testing.assert_allclose(x @ w.T + b, expected, atol=1e-3)
    # The inverse undoes any whitening.
    plain_weights, plain_bias = ridge(x, t - mean, 10)
    np.testing.assert_allclose(expected, x @ plain_weights + plain_bias + mean, atol=1e-9)


def scene(rng, count, projection):
    """Makes proposals around one object, with features that are linear in the deltas to the object."""
    ground_truth = np.array([[100, 80, 180, 200]], np.float32) + rng.uniform(-20, 20, (1, 1)).astype(
        np.float32
    )
    span = np.tile(ground_truth[:, 2:] - ground_truth[:, :2], 2)
    boxes = (ground_truth + span * rng.uniform(-0.08, 0.08, (count, 4))).astype(np.float32)
    return (
        boxes,
        ground_truth,
        (encode_boxes(boxes, np.repeat(ground_truth, count, 0)) @ projection).astype(np.float32),
    )


def test_regressors_recover_a_linear_relation(tmp_path):
    rng = np.random.default_rng(0)
    projection = 100 * rng.standard_normal((4, 40))
    sampler = RegressionSampler(3, 40, RegressionSettings(penalty=1.0), 0.5, tmp_path)
    for key in range(20):
        boxes, ground_truth, features = scene(rng, 15, projection)
        sampler.add_image(key, features, boxes, ground_truth, np.array([1]))
    regressors = sampler.finish()
    assert sampler.seen.tolist() == [0, 300, 0]
    boxes, ground_truth, features = scene(rng, 30, projection)
    moved = apply_deltas(boxes, regressors.deltas(features)[:, 1])
    assert np.abs(boxes - ground_truth).max() > 5
    np.testing.assert_allclose(moved, np.repeat(ground_truth, 30, 0), atol=0.5)
    # A class that had no sample leaves boxes where they are.
    np.testing.assert_allclose(apply_deltas(boxes, regressors.deltas(features)[:, 2]), boxes, atol=1e-4)


def test_proposals_train_only_the_class_of_the_object_they_overlap(tmp_path):
    corners = [[10, 10], [10, 5], [10, 4.9], [10, 4.4], [10, 9]]
    boxes = np.array([[0, 0, x, y] for x, y in corners] + [[20, 0, 30, 10]], np.float32)
    ground_truth = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10]], np.float32)
    sampler = RegressionSampler(3, 2, RegressionSettings(), 1.0, tmp_path)
    sampler.add_image(0, np.ones((6, 2), np.float32), boxes, ground_truth, np.array([0, 0, 2]))
    # 5 and 4.9 of 9 rows count; 4.4 of 9 do not.
    assert sampler.seen.tolist() == [4, 0, 1]
    state = sampler.state()
    expected = encode_boxes(boxes[[0, 1, 2, 4]], ground_truth[[0, 1, 1, 1]])
    np.testing.assert_array_equal(state["offsets"][0, :4], expected)


def offer(sampler, keys):
    for key in keys:
        rng = np.random.default_rng(key)
        boxes, ground_truth, features = scene(rng, 12, np.eye(4, 6) * 50)
        sampler.add_image(key, features, boxes, ground_truth, np.array([key % 2]))


SMALL = RegressionSettings(max_samples=30, penalty=1.0)


def test_interrupted_run_gives_the_result_of_an_unbroken_run(tmp_path):
    whole = RegressionSampler(2, 6, SMALL, 1.0, tmp_path / "whole")
    offer(whole, range(20))
    broken = RegressionSampler(2, 6, SMALL, 1.0, tmp_path / "broken")
    offer(broken, range(9))
    saved = {name: np.array(value) for name, value in broken.state().items()}
    offer(broken, range(9, 14))  # killed here, after the checkpoint
    resumed = RegressionSampler.from_state(saved, 6, SMALL, 1.0, tmp_path / "broken")
    offer(resumed, range(9, 20))
    expected, actual = whole.finish(), resumed.finish()
    np.testing.assert_array_equal(actual.weights, expected.weights)
    np.testing.assert_array_equal(actual.bias, expected.bias)
    assert whole.seen.tolist() == resumed.seen.tolist() == [120, 120]


def saved_state(sampler):
    return {name: np.array(value) for name, value in sampler.state().items()}


def flip(file, position):
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("position", [0, 100, -1])
def test_a_damaged_sample_is_named(tmp_path, position):
    sampler = RegressionSampler(2, 6, SMALL, 1.0, tmp_path)
    offer(sampler, range(20))
    file = tmp_path / "windows-0001.f16"
    flip(file, position)
    resumed = RegressionSampler.from_state(saved_state(sampler), 6, SMALL, 1.0, tmp_path)
    for damaged in (sampler, resumed):
        with pytest.raises(DamageError, match=r"windows-0001\.f16: damaged since it was written"):
            damaged.finish()
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(DamageError, match=r"windows-0001\.f16"):
        sampler.finish()


def test_rows_that_a_power_cut_took_after_the_state_are_written_again(tmp_path):
    whole = RegressionSampler(2, 6, SMALL, 1.0, tmp_path / "whole")
    offer(whole, range(20))
    broken = RegressionSampler(2, 6, SMALL, 1.0, tmp_path / "broken")
    offer(broken, range(9))
    state, files = saved_state(broken), sorted((tmp_path / "broken").iterdir())
    before = [file.read_bytes() for file in files]
    offer(broken, range(9, 14))
    for file, content in zip(files, before, strict=True):
        after = bytearray(file.read_bytes())
        changed = np.flatnonzero(np.frombuffer(after, np.uint8)[: len(content)] != list(content))
        assert len(changed)
        after[changed[0]] ^= 0xFF
        file.write_bytes(after)
    resumed = RegressionSampler.from_state(state, 6, SMALL, 1.0, tmp_path / "broken")
    offer(resumed, range(9, 20))
    np.testing.assert_array_equal(resumed.finish().weights, whole.finish().weights)


def test_a_state_of_version_0_1_0_has_no_checksums(tmp_path):
    sampler = RegressionSampler(2, 6, SMALL, 1.0, tmp_path)
    offer(sampler, range(9))
    state = saved_state(sampler)
    del state["checksums"]
    resumed = RegressionSampler.from_state(state, 6, SMALL, 1.0, tmp_path)
    for same in (sampler, resumed):
        offer(same, range(9, 20))
    np.testing.assert_array_equal(resumed.finish().weights, sampler.finish().weights)


def test_the_sample_is_on_the_disk_before_its_state_is_saved(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    sampler = RegressionSampler(2, 6, SMALL, 1.0, tmp_path)
    offer(sampler, range(2))
    assert not synced
    sampler.state()
    assert len(synced) == 2
    # Nothing has changed.
    sampler.state()
    assert len(synced) == 2


def test_sample_is_even_and_bounded(tmp_path):
    options = RegressionSettings(max_samples=50)
    ground_truth = np.array([[0, 0, 10, 10]], np.float32)
    origins = []
    for seed in range(10):
        sampler = RegressionSampler(
            1, 1, RegressionSettings(max_samples=50, seed=seed), 1.0, tmp_path / str(seed)
        )
        for key in range(40):
            features, boxes = np.full((10, 1), key, np.float32), np.repeat(ground_truth, 10, 0)
            sampler.add_image(key, features, boxes, ground_truth, np.array([0]))
        stored = np.fromfile(tmp_path / str(seed) / "windows-0000.f16", np.float16)
        assert len(stored) == options.max_samples
        origins.append(stored)
    # 500 draws from 0..39 have mean 19.5, deviation 11.5: the mean is within 4 x 11.5 / sqrt(500) = 2.1.
    assert np.mean(origins) == pytest.approx(19.5, abs=2.1)


def test_bad_input_is_named(tmp_path):
    sampler = RegressionSampler(2, 3, RegressionSettings(), 1.0, tmp_path)
    boxes = np.array([[0, 0, 10, 10]], np.float32)
    ones = np.ones((1, 3), np.float32)
    with pytest.raises(ValueError, match="image 7: features"):
        sampler.add_image(7, np.ones((1, 4), np.float32), boxes, boxes, np.array([0]))
    with pytest.raises(ValueError, match="labels must be"):
        sampler.add_image(7, ones, boxes, boxes, np.array([2]))
    with pytest.raises(ValueError, match="not finite"):
        sampler.add_image(7, ones * np.nan, boxes, boxes, np.array([0]))
    assert sampler.seen.tolist() == [0, 0]
    sampler.add_image(8, np.empty((0, 3), np.float32), boxes[:0], boxes[:0], np.empty(0, np.int64))
    sampler.add_image(9, ones, boxes, boxes, np.array([1]))
    state = sampler.state()
    (tmp_path / "windows-0001.f16").unlink()
    with pytest.raises(ValueError, match=r"windows-0001\.f16"):
        RegressionSampler.from_state(state, 3, RegressionSettings(), 1.0, tmp_path)
    regressors = BoxRegressors(np.zeros((2, 4, 3), np.float32), np.zeros((2, 4), np.float32), 1.0)
    with pytest.raises(ValueError, match="regressors take"):
        regressors.deltas(np.ones((2, 4), np.float32))
