"""Heads: they score a region's vector for each class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import numpy as np

from sppnet.common.arrays import FloatArray
from sppnet.svm import LinearSVMs


class Head(Protocol):
    """Vectors of regions to a score for each class.

    Attributes:
        kind: its name in files of models.
        working_score: detections of at least this score are worth showing.
    """

    kind: ClassVar[str]
    working_score: ClassVar[float]

    @property
    def num_classes(self) -> int:
        """Classes, C."""

    @property
    def length(self) -> int:
        """Numbers in a vector that it scores, d."""

    @property
    def norm_factor(self) -> float:
        """The factor of vectors before the weights."""

    def score(self, features: FloatArray) -> FloatArray:
        """Scores float32 (N, C) of vectors (N, d), as they come from the extractor."""

    def tensors(self) -> dict[str, FloatArray]:
        """Its weights by their names in files of models."""


@dataclass(frozen=True, eq=False)
class SVMHead(LinearSVMs):
    """One linear SVM a class; a score is a margin.

    SVMs of rare classes seldom give their objects a margin above 0. From -0.75 on two to three boxes an
    image remained on VOC2007, about as many as there are objects; from -0.5 on hardly a dog did.

    Attributes:
        weights: float32 (C, d), for vectors times ``norm_factor``.
        bias: float32 (C,).
        norm_factor: what vectors are multiplied by before the weights.

    Example:
        >>> head = SVMHead(np.eye(2, dtype=np.float32), np.zeros(2, np.float32), 0.5)
        >>> head.score(np.array([[4, 2]], np.float32)).tolist()
        [[2.0, 1.0]]
    """

    kind: ClassVar[str] = "svm"
    working_score: ClassVar[float] = -0.75

    @classmethod
    def of(cls, svms: LinearSVMs) -> Self:
        """The head of trained SVMs."""
        return cls(svms.weights, svms.bias, svms.norm_factor)

    @property
    def num_classes(self) -> int:
        """See `Head.num_classes`."""
        return len(self.weights)

    @property
    def length(self) -> int:
        """See `Head.length`."""
        return int(self.weights.shape[1])

    def tensors(self) -> dict[str, FloatArray]:
        """See `Head.tensors`."""
        return {"svm.weights": self.weights, "svm.bias": self.bias}


@dataclass(frozen=True, eq=False)
class SoftmaxHead:
    """The last layer of a fine-tuned network: fc8 and the softmax over classes and background.

    A score is the logarithm of a class' odds. Unlike the probability it does not run into 1, so that sure
    regions still have an order; 0 is a probability of one half.

    Attributes:
        weights: float32 (C + 1, d), the last row that of the background.
        bias: float32 (C + 1,).

    Example:
        >>> head = SoftmaxHead(np.zeros((3, 4), np.float32), np.zeros(3, np.float32))
        >>> head.num_classes, head.score(np.ones((1, 4), np.float32))
        (2, array([[-0.6931472, -0.6931472]], dtype=float32))
    """

    weights: FloatArray
    bias: FloatArray

    kind: ClassVar[str] = "softmax"
    working_score: ClassVar[float] = 0.0

    @property
    def num_classes(self) -> int:
        """See `Head.num_classes`; the background is none."""
        return len(self.weights) - 1

    @property
    def length(self) -> int:
        """See `Head.length`."""
        return int(self.weights.shape[1])

    @property
    def norm_factor(self) -> float:
        """1: fc8 takes what the layer before it gives."""
        return 1.0

    def score(self, features: FloatArray) -> FloatArray:
        """The logarithm of each class' odds: float32 (N, C) for vectors (N, d).

        Raises:
            ValueError: vectors of another length.
        """
        return log_odds(LinearSVMs(self.weights, self.bias, 1.0).score(features))

    def tensors(self) -> dict[str, FloatArray]:
        """See `Head.tensors`."""
        return {"softmax.weights": self.weights, "softmax.bias": self.bias}


def head_from_tensors(arrays: Mapping[str, FloatArray], norm_factor: float) -> Head:
    """The head whose `Head.tensors` are among some arrays.

    Args:
        arrays: by name.
        norm_factor: what vectors are multiplied by; not used by a softmax.

    Raises:
        KeyError: there is no head among them.
        ValueError: weights and bias that do not fit each other.
    """
    kind = "softmax" if "softmax.weights" in arrays else "svm"
    weights, bias = arrays[f"{kind}.weights"], arrays[f"{kind}.bias"]
    if weights.ndim != 2 or bias.shape != weights.shape[:1]:
        raise ValueError(f"{kind} weights of shape {weights.shape} with a bias of shape {bias.shape}")
    return SoftmaxHead(weights, bias) if kind == "softmax" else SVMHead(weights, bias, norm_factor)


def log_odds(logits: FloatArray) -> FloatArray:
    """The logarithm of the odds of each class but the last under a softmax.

    Args:
        logits: float32 (N, C + 1), the background last.

    Returns:
        float32 (N, C).
    """
    powers = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    # The sum of the other classes, not 1 minus the own part, which would lose the digits of a sure class.
    below = np.cumsum(powers, axis=1)[:, :-2]
    above = np.cumsum(powers[:, :0:-1], axis=1)[:, ::-1]
    others = above + np.concatenate([np.zeros((len(logits), 1)), below], axis=1)
    tiny = np.finfo(np.float64).tiny
    odds: FloatArray = (np.log(powers[:, :-1] + tiny) - np.log(others + tiny)).astype(np.float32)
    return odds
