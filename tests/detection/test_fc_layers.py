"""Fully connected layers of the detector; their files; Caffe's order."""

import logging
from itertools import pairwise

import numpy as np
import pytest
import torch
from caffe_files import caffemodel
from safetensors.torch import save_file

from sppnet.common.errors import InputError
from sppnet.detection.fc_layers import FullyConnected, from_caffe_order, read_layers


def make_layers(*sizes, seed=0):
    rng = np.random.default_rng(seed)
    weights = [rng.normal(0, 0.3, (b, a)).astype(np.float32) for a, b in pairwise(sizes)]
    biases = [rng.normal(0, 0.3, b).astype(np.float32) for b in sizes[1:]]
    return FullyConnected(
        tuple((torch.from_numpy(matrix),) for matrix in weights), tuple(map(torch.from_numpy, biases))
    )


def by_hand(layers, features):
    for factors, bias in zip(layers.factors, layers.biases, strict=True):
        weights = np.eye(factors[0].shape[1])
        for factor in factors:
            weights = factor.numpy().astype(np.float64) @ weights
        features = np.maximum(features @ weights.T + bias.numpy(), 0)
    return features


@pytest.fixture
def features():
    return np.random.default_rng(1).normal(0, 1, (7, 30)).astype(np.float32)


# 1,024 vectors pass at a time.
@pytest.mark.parametrize("count", [0, 1, 7, 1024, 1025, 2500])
def test_layers(count):
    features = np.random.default_rng(1).normal(0, 1, (count, 30)).astype(np.float32)
    layers = make_layers(30, 12, 5)
    outputs = layers(features)
    assert (outputs.dtype, outputs.shape) == (np.float32, (count, 5))
    assert (layers.inputs, layers.length) == (30, 5)
    np.testing.assert_allclose(outputs, by_hand(layers, features), atol=1e-5)
    first = layers.first(1)
    np.testing.assert_allclose(first(features), by_hand(first, features), atol=1e-5)


def test_rounded_layers(features):
    """Vectors, weights and results are rounded; the order of sums may change the last bit."""
    layers = make_layers(30, 12, 5)
    rounded = layers.rounded()
    assert {tensor.dtype for tensor in rounded.tensors().values()} == {torch.bfloat16}
    assert rounded.biases[0].tolist() != layers.biases[0].tolist()
    outputs = rounded(features)
    assert outputs.dtype == np.float32
    expected = torch.from_numpy(features).bfloat16()
    for (weights,), bias in zip(rounded.factors, rounded.biases, strict=True):
        expected = (expected.double() @ weights.double().T + bias.double()).relu().bfloat16()
    np.testing.assert_allclose(outputs, expected.float().numpy(), rtol=2**-6, atol=1e-2)
    torch.testing.assert_close(
        torch.from_numpy(outputs).bfloat16().float(), torch.from_numpy(outputs), rtol=0, atol=0
    )


def test_layers_refuse_other_vectors(features):
    with pytest.raises(ValueError, match=r"\(7, 30\); the layers take \(N, 31\)"):
        make_layers(31, 5)(features)


def test_truncation_is_the_best_of_its_rank(features):
    """The error equals the left-out singular values (Eckart, Young); full rank changes nothing."""
    layers = make_layers(30, 20, 5)
    thin = layers.truncated(4)
    first, second = thin.factors
    assert [tuple(matrix.shape) for matrix in first] == [(4, 30), (20, 4)]
    # 4 x (20 + 5) is not less than 20 x 5.
    assert second is layers.factors[1]
    values = np.linalg.svd(layers.factors[0][0].numpy(), compute_uv=False)
    error = np.linalg.norm((first[1] @ first[0] - layers.factors[0][0]).numpy())
    assert error == pytest.approx(np.sqrt((values[4:] ** 2).sum()), rel=1e-4)
    np.testing.assert_allclose(thin(features), by_hand(thin, features), atol=1e-5)
    assert not np.allclose(thin(features), layers(features), atol=1e-3)
    np.testing.assert_allclose(layers.truncated(11)(features), layers(features), atol=0.8)
    again = thin.truncated(2)
    assert again.factors[0][0].shape == (2, 30)


@pytest.mark.parametrize("sizes", [(6, 4), (6, 4, 3)], ids=["fc6", "fc6 and fc7"])
def test_tensors_and_back(sizes):
    layers = make_layers(*sizes)
    vectors = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    for original in (layers, layers.truncated(1)):
        back = FullyConnected.from_tensors(original.tensors() | {"network.body": torch.zeros(1)})
        np.testing.assert_array_equal(back(vectors), original(vectors))
    assert FullyConnected.from_tensors({"network.body": torch.zeros(1)}) is None


@pytest.mark.parametrize(
    "change",
    [{"fc7.weight0": torch.zeros(3, 5)}, {"fc6.bias": torch.zeros(3)}, {"fc6.weight0": torch.zeros(4)}],
)
def test_tensors_that_do_not_fit(change):
    with pytest.raises(ValueError, match=r"fc[67] has"):
        FullyConnected.from_tensors(make_layers(6, 4, 3).tensors() | change)


@pytest.mark.parametrize("levels", [(6, 3, 2, 1), (1, 2), (2, 1), (3,)])
def test_caffes_order(levels):
    """Computes Caffe's index of level, channel, row and column for each element of our order."""
    channels, order = 3, []
    caffe = {}
    for level in sorted(levels):
        for channel in range(channels):
            for row in range(level):
                for column in range(level):
                    caffe[level, channel, row, column] = len(caffe)
    for level in levels:
        for row in range(level):
            for column in range(level):
                order += [caffe[level, channel, row, column] for channel in range(channels)]
    weights = torch.arange(2 * len(caffe), dtype=torch.float32).reshape(2, -1)
    assert torch.equal(from_caffe_order(weights, levels, channels), weights[:, order])


def write_layers(folder, suffix="safetensors", **changes):
    rng = np.random.default_rng(3)
    shapes = {"fc6.weight": (8, 15), "fc6.bias": (8,), "fc7.weight": (8, 8), "fc7.bias": (8,)}
    state = {
        name: torch.from_numpy(rng.normal(size=shape).astype(np.float32)) for name, shape in shapes.items()
    }
    state = {name: tensor for name, tensor in (state | changes).items() if tensor is not None}
    path = folder / f"layers.{suffix}"
    save_file(state, path)
    return path, state


def test_layers_of_a_file(tmp_path):
    path, state = write_layers(tmp_path)
    layers = read_layers(path, (2, 1), 3, 8)
    assert torch.equal(layers.factors[0][0], state["fc6.weight"])
    assert torch.equal(layers.biases[1], state["fc7.bias"])


@pytest.mark.parametrize("generation", [0, 1, 2])
@pytest.mark.parametrize("last", ["fc6", "fc7"])
def test_layers_of_a_caffemodel(tmp_path, generation, last):
    """Files have Caffe's order; in generations 0 and 1 blobs have four dimensions."""
    _, state = write_layers(tmp_path)
    names = {"fc6": ("fc6",), "fc7": ("fc6", "fc7")}[last]
    layers = {"conv1": [torch.ones(2, 1, 2, 2), torch.ones(2)], "relu1": []}
    layers |= {name: [state[f"{name}.weight"], state[f"{name}.bias"]] for name in names}
    path = tmp_path / "ZF5.caffemodel"
    path.write_bytes(caffemodel(layers, generation))
    read = read_layers(path, (2, 1), 3, 8)
    assert len(read.factors) == len(read.biases) == len(names)
    assert torch.equal(read.factors[0][0], from_caffe_order(state["fc6.weight"], (2, 1), 3))
    for layer, name in enumerate(names):
        assert torch.equal(read.biases[layer], state[f"{name}.bias"])
    if last == "fc7":
        assert torch.equal(read.factors[1][0], state["fc7.weight"])


def test_fc6_alone(tmp_path, caplog):
    """A file without fc7 is read with a warning, and fc7 stays random."""
    path, state = write_layers(tmp_path, **{"fc7.weight": None, "fc7.bias": None})
    with caplog.at_level(logging.WARNING):
        layers = read_layers(path, (2, 1), 3, 8)
    assert "layers.safetensors: has no fc7" in caplog.text
    assert (layers.inputs, layers.length, len(layers.factors)) == (15, 8, 1)
    assert torch.equal(layers.factors[0][0], state["fc6.weight"])
    assert torch.equal(layers.biases[0], state["fc6.bias"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fc7.weight": None}, "no tensor 'fc7.weight'"),
        ({"fc7.bias": None}, "no tensor 'fc7.bias'"),
        ({"fc6.weight": None, "fc6.bias": None}, "no tensor 'fc6.weight'"),
        ({"fc6.weight": torch.zeros(8, 16)}, r"fc6 is \(8, 16\), not \(8, 15\); set finetuning.width"),
        ({"fc7.bias": torch.full((8,), torch.nan)}, "fc7 has values that are not finite"),
    ],
    ids=["fc7-without-weight", "fc7-without-bias", "no-fc6", "shape", "nan"],
)
def test_layers_of_a_wrong_file(tmp_path, changes, message):
    path, _ = write_layers(tmp_path, **changes)
    with pytest.raises(InputError, match=rf"layers\.safetensors: {message}"):
        read_layers(path, (2, 1), 3, 8)
