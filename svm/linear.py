"""The trained one-vs-rest SVMs, and the scale that brings features to the norm they are trained at."""

from dataclasses import dataclass

import numpy as np

from sppnet.common.arrays import FloatArray

TARGET_NORM = 20.0  # mean length of a feature vector (R-CNN and SPP-net, released code)


def norm_factor(mean_norm: float, target: float = TARGET_NORM) -> float:
    """The factor that brings features of a mean L2 norm to the target norm.

    Raises:
        ValueError: the mean norm is not a positive number.
    """
    if not (np.isfinite(mean_norm) and mean_norm > 0):
        raise ValueError(f"mean feature norm is {mean_norm}; it must be positive: are all features zero?")
    return target / mean_norm


@dataclass(frozen=True, eq=False)
class LinearSVMs:
    """One linear SVM a class.

    Attributes:
        weights: float32 (C, d), for features times ``norm_factor``.
        bias: float32 (C,).
        norm_factor: what features are multiplied by before the weights: `svm.norm_factor` of the training set.
    """

    weights: FloatArray
    bias: FloatArray
    norm_factor: float

    def score(self, features: FloatArray) -> FloatArray:
        """Margins: float32 (N, C) for unscaled features (N, d); one matrix product.

        Raises:
            ValueError: features of another length.
        """
        if features.ndim != 2 or features.shape[1] != self.weights.shape[1]:
            raise ValueError(f"features are {features.shape}; the SVMs take (N, {self.weights.shape[1]})")
        products = features.astype(np.float32, copy=False) @ self.weights.T
        scores: FloatArray = products * np.float32(self.norm_factor) + self.bias
        return scores
