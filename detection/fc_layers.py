"""Fully connected layers on pooled windows, as the detector uses them: arrays in, arrays out."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sppnet.common.arrays import FloatArray
from sppnet.common.errors import InputError
from sppnet.detection.backbones.weights import read_weights
from sppnet.svm import LinearSVMs

logger = logging.getLogger(__name__)

# Windows that pass at a time, so that what a layer gives stays small beside the pooled vectors.
_CHUNK = 1024


@dataclass(frozen=True, eq=False)
class FullyConnected:
    """Layers, each a matrix product with a bias and a rectifier after it; dropout is for training only.

    Attributes:
        factors: of each layer the matrices (outputs, inputs) whose product, the first one applied first, is
            the layer's weights: one, or the two of a truncated singular value decomposition.
        biases: (outputs,), of each layer. All are float32, or bfloat16 to compute in that.
    """

    factors: tuple[tuple[Tensor, ...], ...]
    biases: tuple[Tensor, ...]

    @property
    def inputs(self) -> int:
        """Length of the vectors that come in."""
        return self.factors[0][0].shape[1]

    @property
    def length(self) -> int:
        """Length of the vectors that go out."""
        return len(self.biases[-1])

    @torch.inference_mode()
    def __call__(self, features: FloatArray) -> FloatArray:
        """What the last layer gives: float32 (N, length), for pooled vectors (N, inputs), unscaled.

        Raises:
            ValueError: features of another length.
        """
        if features.ndim != 2 or features.shape[1] != self.inputs:
            raise ValueError(f"features are {features.shape}; the layers take (N, {self.inputs})")
        results = np.empty((len(features), self.length), np.float32)
        for start in range(0, len(features), _CHUNK):
            values = torch.from_numpy(np.ascontiguousarray(features[start : start + _CHUNK], np.float32))
            values = values.to(self.biases[0].dtype)
            for factors, bias in zip(self.factors, self.biases, strict=True):
                for factor in factors[:-1]:
                    values = values @ factor.T
                values = torch.addmm(bias, values, factors[-1].T).relu_()
            results[start : start + _CHUNK] = values.float().numpy()
        return results

    def first(self, count: int) -> "FullyConnected":
        """The first ``count`` of the layers."""
        return FullyConnected(self.factors[:count], self.biases[:count])

    def truncated(self, rank: int) -> "FullyConnected":
        """The layers with weights of at most this rank, each as two thin matrices (Fast R-CNN §3.1).

        A layer whose two matrices would not be smaller than the one stays as it is.
        """
        factors = []
        for one in self.factors:
            weights = one[0] if len(one) == 1 else one[1] @ one[0]
            outputs, inputs = weights.shape
            if rank * (outputs + inputs) < outputs * inputs:
                # W W' = U S² U' is cheaper to decompose than W = U S V'; of rank r it is U_r U_r' W.
                _, vectors = torch.linalg.eigh(weights.double() @ weights.double().T)
                largest = vectors[:, -rank:].float()
                one = (largest.T @ weights, largest.contiguous())
            factors.append(one)
        return FullyConnected(tuple(factors), self.biases)

    def rounded(self) -> "FullyConnected":
        """The layers in bfloat16: weights and what each gives are rounded to it, sums are not."""
        factors = tuple(tuple(factor.bfloat16() for factor in one) for one in self.factors)
        return FullyConnected(factors, tuple(bias.bfloat16() for bias in self.biases))

    def tensors(self) -> dict[str, Tensor]:
        """Tensors by name, for `from_tensors`."""
        found = {}
        for layer, (factors, bias) in enumerate(zip(self.factors, self.biases, strict=True), start=6):
            found[f"fc{layer}.bias"] = bias
            found |= {f"fc{layer}.weight{place}": factor for place, factor in enumerate(factors)}
        return found

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "FullyConnected | None":
        """The layers that `tensors` gave; None where there are none.

        Raises:
            ValueError: matrices that do not follow one another.
        """
        factors, biases = [], []
        layer = 6
        while f"fc{layer}.bias" in tensors:
            names = [f"fc{layer}.weight{place}" for place in range(2)]
            factors.append(tuple(tensors[name] for name in names if name in tensors))
            biases.append(tensors[f"fc{layer}.bias"])
            layer += 1
        if not biases:
            return None
        length = None
        for layer, (one, bias) in enumerate(zip(factors, biases, strict=True), start=6):
            for factor in one:
                if factor.ndim != 2 or length not in (None, factor.shape[1]):
                    raise ValueError(f"fc{layer} has a matrix {tuple(factor.shape)} for {length} inputs")
                length = factor.shape[0]
            if not one or bias.shape != (length,):
                raise ValueError(
                    f"fc{layer} has no weights, or a bias {tuple(bias.shape)} for {length} outputs"
                )
        return cls(tuple(factors), tuple(biases))


@dataclass(frozen=True, eq=False)
class SoftmaxHead:
    """The fine-tuned network's last layer as a head: fc8 and the softmax over classes and background.

    Attributes:
        weights: float32 (C + 1, d), the last row that of the background.
        bias: float32 (C + 1,).
    """

    weights: FloatArray
    bias: FloatArray

    # Like `LinearSVMs`, whose place it takes; its weights are for features as they come.
    scale = 1.0

    def score(self, features: FloatArray) -> FloatArray:
        """The logarithm of each class' odds: float32 (N, C) for features (N, d).

        Unlike the probability it does not run into 1, so that sure windows still have an order.

        Raises:
            ValueError: features of another length.
        """
        return log_odds(LinearSVMs(self.weights, self.bias, 1.0).score(features))


def log_odds(logits: FloatArray) -> FloatArray:
    """The logarithm of the odds of each class but the last under a softmax: float32 (N, C) for (N, C + 1)."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    # The sum of the others, not 1 minus the own part, which would lose the digits of a sure class.
    below = np.cumsum(powers, axis=1)[:, :-2]
    above = np.cumsum(powers[:, :0:-1], axis=1)[:, ::-1]
    others = above + np.concatenate([np.zeros((len(logits), 1)), below], axis=1)
    tiny = np.finfo(np.float64).tiny
    odds: FloatArray = (np.log(powers[:, :-1] + tiny) - np.log(others + tiny)).astype(np.float32)
    return odds


Head = LinearSVMs | SoftmaxHead


def from_caffe_order(weights: Tensor, levels: Sequence[int], channels: int) -> Tensor:
    """Orders fc6's inputs as ours: the given levels, row by row, channels within a bin.

    Args:
        weights: (outputs, inputs) of a Caffe SPP-net, whose inputs are ordered by rising level, then by
            channel, then row by row (released code).
        levels: bins a side of our pyramid, in our order.
        channels: of the map.

    Returns:
        (outputs, inputs), a copy.
    """
    outputs = weights.shape[0]
    order = sorted(range(len(levels)), key=lambda place: levels[place])
    parts = torch.split(weights, [levels[place] ** 2 * channels for place in order], dim=1)
    by_place = dict(zip(order, parts, strict=True))
    ours = [
        by_place[place].reshape(outputs, channels, -1).transpose(1, 2).reshape(outputs, -1)
        for place in range(len(levels))
    ]
    return torch.cat(ours, dim=1)


def read_layers(path: Path, levels: Sequence[int], channels: int, width: int) -> FullyConnected:
    """fc6 and fc7, or fc6 alone, from a file of weights; a ``.caffemodel``'s are put into our order.

    Args:
        path: see `read_weights`; tensors ``fc6.weight``, ``fc6.bias``, ``fc7.weight``, ``fc7.bias``, of which
            both of fc7 may be missing.
        levels: of the pyramid.
        channels: of the map.
        width: outputs of both layers.

    Returns:
        The two layers; fc6 alone, which is logged, where the file has no fc7.

    Raises:
        InputError: the file cannot be read, half of a layer is missing, or its layers have other shapes.
    """
    state = read_weights(path)
    inputs = sum(level * level for level in levels) * channels
    factors, biases = [], []
    for name, length in (("fc6", inputs), ("fc7", width)):
        if name == "fc7" and not state.keys() & {"fc7.weight", "fc7.bias"}:
            logger.warning("%s: has no fc7, only fc6; fc7 starts with random weights", path)
            continue
        try:
            weights, bias = state[f"{name}.weight"].float(), state[f"{name}.bias"].float().flatten()
        except KeyError as error:
            raise InputError(f"{path}: no tensor {error}; fc6 and fc7 cannot start from it") from error
        # Caffe's legacy blobs have four dimensions, the first two of 1.
        weights = weights.reshape(weights.shape[-2:]) if weights.ndim == 4 else weights
        if weights.shape != (width, length) or bias.shape != (width,):
            raise InputError(
                f"{path}: {name} is {tuple(weights.shape)}, not {(width, length)}; set finetuning.width and "
                "features.levels to those it was made with, and take its own network"
            )
        if not (weights.isfinite().all() and bias.isfinite().all()):
            raise InputError(f"{path}: {name} has values that are not finite; fetch the file again")
        if name == "fc6" and path.suffix.lower() == ".caffemodel":
            weights = from_caffe_order(weights, levels, channels)
        factors.append((weights.contiguous(),))
        biases.append(bias)
    return FullyConnected(tuple(factors), tuple(biases))


def as_array(tensor: Tensor) -> NDArray[np.float32]:
    """A tensor as a float32 array."""
    array: NDArray[np.float32] = tensor.detach().float().numpy()
    return array
