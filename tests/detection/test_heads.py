"""Heads: the softmax of a fine-tuned network."""

import numpy as np
import pytest

from sppnet.detection.heads import SoftmaxHead, SVMHead, head_from_tensors, log_odds


@pytest.fixture
def features():
    return np.random.default_rng(1).normal(0, 1, (7, 30)).astype(np.float32)


def test_log_odds():
    logits = np.random.default_rng(0).normal(0, 3, (50, 4)).astype(np.float32)
    powers = np.exp(logits.astype(np.float64))
    part = (powers / powers.sum(axis=1, keepdims=True))[:, :3]
    np.testing.assert_allclose(log_odds(logits), np.log(part / (1 - part)), rtol=1e-4, atol=1e-5)


def test_log_odds_of_sure_regions_keep_their_order():
    """Beyond 37 a probability is exactly 1; and nothing overflows."""
    logits = np.float32([[40, 0, 0], [60, 0, 0], [90, 0, 0], [-200, 200, 0], [3000, 0, 0]])
    odds = log_odds(logits)
    assert np.isfinite(odds).all()
    assert (np.diff(odds[[0, 1, 2, 4], 0]) > 0).all()
    np.testing.assert_allclose(odds[:3, 0], np.array([40, 60, 90]) - np.log(2), rtol=1e-5)


def test_softmax_head(features):
    rng = np.random.default_rng(2)
    head = SoftmaxHead(rng.normal(size=(4, 30)).astype(np.float32), rng.normal(size=4).astype(np.float32))
    np.testing.assert_allclose(
        head.score(features), log_odds(features @ head.weights.T + head.bias), atol=1e-4
    )
    assert head.score(features[:0]).shape == (0, 3)
    with pytest.raises(ValueError, match=r"take \(N, 30\)"):
        head.score(features[:, :5])


@pytest.mark.parametrize("kind", ["svm", "softmax"])
def test_head_from_tensors(kind):
    weights, bias = np.ones((3, 5), np.float32), np.zeros(3, np.float32)
    head = head_from_tensors({f"{kind}.weights": weights, f"{kind}.bias": bias}, 0.5)
    assert isinstance(head, SVMHead if kind == "svm" else SoftmaxHead)
    for wrong in ((weights[0], bias), (weights, bias[:2]), (weights, bias[:, None])):
        with pytest.raises(ValueError, match=f"{kind} weights of shape"):
            head_from_tensors(dict(zip((f"{kind}.weights", f"{kind}.bias"), wrong, strict=True)), 0.5)
    with pytest.raises(KeyError):
        head_from_tensors({}, 0.5)
