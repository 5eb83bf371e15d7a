"""Fully connected layers on pooled vectors, for the detector: arrays in, arrays out."""

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

logger = logging.getLogger(__name__)

# Number of vectors that pass at a time, so that outputs of layers take little memory beside pooled vectors.
_CHUNK = 1024


@dataclass(frozen=True, eq=False)
class FullyConnected:
    """Fully connected layers: matrix product, bias and rectifier each; dropout is for training only.

    Attributes:
        factors: for each layer the matrices (outputs, inputs) whose product is its weights, in the order in
            which they are applied: one matrix, or the two of a truncated singular value decomposition.
        biases: (outputs,), the bias of each layer. All tensors are float32, or bfloat16 to compute in it.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> layers = FullyConnected(factors=((torch.eye(2, 3),),), biases=(torch.tensor([0.5, 0.0]),))
        >>> layers(np.array([[1, -2, 3]], np.float32))
        array([[1.5, 0. ]], dtype=float32)
    """

    factors: tuple[tuple[Tensor, ...], ...]
    biases: tuple[Tensor, ...]

    @property
    def inputs(self) -> int:
        """Length of the input vectors."""
        return self.factors[0][0].shape[1]

    @property
    def length(self) -> int:
        """Length of the output vectors."""
        return len(self.biases[-1])

    @torch.inference_mode()
    def __call__(self, features: FloatArray) -> FloatArray:
        """Computes the outputs of the last layer.

        Args:
            features: float32 (N, inputs), pooled vectors, without norm factor.

        Returns:
            float32 (N, length).

        Raises:
            ValueError: the features have another length.
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
        """Returns the first ``count`` layers."""
        return FullyConnected(self.factors[:count], self.biases[:count])

    def truncated(self, rank: int) -> "FullyConnected":
        """Returns the layers with weights of at most this rank, as two thin matrices (Fast R-CNN §3.1).

        A layer stays unchanged if its two matrices would not be smaller than its weights.
        """
        factors = []
        for matrices in self.factors:
            weights = matrices[0] if len(matrices) == 1 else matrices[1] @ matrices[0]
            outputs, inputs = weights.shape
            if rank * (outputs + inputs) < outputs * inputs:
                # W W' = U S² U' is cheaper to decompose than W = U S V'; the part of rank r is U_r U_r' W.
                _, vectors = torch.linalg.eigh(weights.double() @ weights.double().T)
                largest = vectors[:, -rank:].float()
                matrices = (largest.T @ weights, largest.contiguous())
            factors.append(matrices)
        return FullyConnected(tuple(factors), self.biases)

    def rounded(self) -> "FullyConnected":
        """Returns the layers in bfloat16: weights and outputs are rounded, sums are not."""
        factors = tuple(tuple(factor.bfloat16() for factor in matrices) for matrices in self.factors)
        return FullyConnected(factors, tuple(bias.bfloat16() for bias in self.biases))

    def tensors(self) -> dict[str, Tensor]:
        """Returns name to tensor, for `from_tensors`."""
        tensors = {}
        for layer, (factors, bias) in enumerate(zip(self.factors, self.biases, strict=True), start=6):
            tensors[f"fc{layer}.bias"] = bias
            tensors |= {f"fc{layer}.weight{index}": factor for index, factor in enumerate(factors)}
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "FullyConnected | None":
        """Rebuilds the layers from `tensors`; returns None if there are none.

        Args:
            tensors: name to tensor; other names are ignored.

        Raises:
            ValueError: the shapes of the matrices and biases do not follow one another.
        """
        factors, biases = [], []
        layer = 6
        while f"fc{layer}.bias" in tensors:
            names = [f"fc{layer}.weight{index}" for index in range(2)]
            factors.append(tuple(tensors[name] for name in names if name in tensors))
            biases.append(tensors[f"fc{layer}.bias"])
            layer += 1
        if not biases:
            return None
        length = None
        for layer, (matrices, bias) in enumerate(zip(factors, biases, strict=True), start=6):
            for factor in matrices:
                if factor.ndim != 2 or length not in (None, factor.shape[1]):
                    raise ValueError(f"fc{layer} has a matrix {tuple(factor.shape)} for {length} inputs")
                length = factor.shape[0]
            if not matrices or bias.shape != (length,):
                raise ValueError(
                    f"fc{layer} has no weights, or a bias {tuple(bias.shape)} for {length} outputs"
                )
        return cls(tuple(factors), tuple(biases))


def from_caffe_order(weights: Tensor, levels: Sequence[int], channels: int) -> Tensor:
    """Reorders fc6's inputs from Caffe's order to the order of `spatial_pyramid_pool`.

    Args:
        weights: (outputs, inputs) of a Caffe SPP-net, whose inputs are ordered by rising level, then by
            channel, then row by row (released code).
        levels: bins per side of each pyramid level.
        channels: number of channels of the map.

    Returns:
        (outputs, inputs), a copy whose inputs are ordered by level as in ``levels``, then row by row, then by
        channel within a bin.
    """
    outputs = weights.shape[0]
    rising = sorted(range(len(levels)), key=lambda index: levels[index])
    parts = torch.split(weights, [levels[index] ** 2 * channels for index in rising], dim=1)
    by_index = dict(zip(rising, parts, strict=True))
    reordered = [
        by_index[index].reshape(outputs, channels, -1).transpose(1, 2).reshape(outputs, -1)
        for index in range(len(levels))
    ]
    return torch.cat(reordered, dim=1)


def read_layers(path: Path, levels: Sequence[int], channels: int, width: int) -> FullyConnected:
    """Reads fc6 and fc7, or fc6 alone, from a file of weights; reorders the fc6 of a ``.caffemodel``.

    Args:
        path: a file as in `read_weights` with the tensors ``fc6.weight``, ``fc6.bias``, ``fc7.weight`` and
            ``fc7.bias``; both tensors of fc7 may be missing.
        levels: bins per side of each pyramid level.
        channels: number of channels of the map.
        width: number of outputs of both layers.

    Returns:
        the two layers, or fc6 alone, with a warning in the log, if the file has no fc7.

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
        # Caffe's legacy blobs have four dimensions; the first two are 1.
        weights = weights.reshape(weights.shape[-2:]) if weights.ndim == 4 else weights
        if weights.shape != (width, length) or bias.shape != (width,):
            raise InputError(
                f"{path}: {name} is {tuple(weights.shape)}, not {(width, length)}; set finetuning.width and "
                "features.levels to the values of the file, and take its own network"
            )
        if not (weights.isfinite().all() and bias.isfinite().all()):
            raise InputError(f"{path}: {name} has values that are not finite; fetch the file again")
        if name == "fc6" and path.suffix.lower() == ".caffemodel":
            weights = from_caffe_order(weights, levels, channels)
        factors.append((weights.contiguous(),))
        biases.append(bias)
    return FullyConnected(tuple(factors), tuple(biases))


def as_array(tensor: Tensor) -> NDArray[np.float32]:
    """Converts a tensor to a float32 array."""
    array: NDArray[np.float32] = tensor.detach().float().numpy()
    return array
