"""ZF-5's own layer: Caffe's within-channel normalisation."""

import numpy as np
import pytest
import torch

from sppnet.detection.backbones import build_network
from sppnet.detection.backbones.zf5 import WithinChannelLRN


def slow_lrn(x, size, alpha):
    """Computes lrn_layer.cpp of Caffe with WITHIN_CHANNEL; average pooling divides by size * size."""
    channels, height, width = x.shape
    result = np.empty_like(x)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                total = 0.0
                for di in range(-(size // 2), size // 2 + 1):
                    for dj in range(-(size // 2), size // 2 + 1):
                        if 0 <= i + di < height and 0 <= j + dj < width:
                            total += x[c, i + di, j + dj] ** 2
                result[c, i, j] = x[c, i, j] * (1 + alpha * total / size**2) ** -0.75
    return result


def test_lrn_equals_the_slow_one():
    x = np.random.default_rng(0).normal(0, 100, (2, 6, 5))
    fast = WithinChannelLRN(3, 5e-5)(torch.from_numpy(x)[None])[0].numpy()
    np.testing.assert_allclose(fast, slow_lrn(x, 3, 5e-5), rtol=1e-12)
    assert not np.allclose(fast, x, rtol=1e-2)


def test_lrn_can_be_learned_through():
    x = torch.from_numpy(np.random.default_rng(0).normal(0, 100, (1, 2, 4, 4))).requires_grad_()
    assert torch.autograd.gradcheck(WithinChannelLRN(3, 5e-5), (x,))


def test_lrn_by_hand():
    # A single 30 at a corner: the mean of squares is 900 / 9, although only 4 of 9 cells lie inside.
    x = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    x[0, 0, 0, 0] = 30
    expected = 30 * (1 + 0.5 * 900 / 9) ** -0.75
    assert float(WithinChannelLRN(3, 0.5)(x)[0, 0, 0, 0]) == pytest.approx(expected, rel=1e-14)


def test_input_is_bgr_minus_128():
    network = build_network("zf5", "random")
    image = np.array([[[10, 20, 30]]], dtype=np.uint8)
    assert network.normalise(image).flatten().tolist() == [30 - 128, 20 - 128, 10 - 128]


def test_layers_are_the_released_ones():
    shapes = {
        key: tuple(value.shape) for key, value in build_network("zf5", "random").layers.state_dict().items()
    }
    assert shapes == {
        "conv1.weight": (96, 3, 7, 7),
        "conv1.bias": (96,),
        "conv2.weight": (256, 96, 5, 5),
        "conv2.bias": (256,),
        "conv3.weight": (384, 256, 3, 3),
        "conv3.bias": (384,),
        "conv4.weight": (384, 384, 3, 3),
        "conv4.bias": (384,),
        "conv5.weight": (256, 384, 3, 3),
        "conv5.bias": (256,),
    }
