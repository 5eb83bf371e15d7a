"""Trained one-vs-rest SVMs, and the factor that brings features to the norm of the training."""

from dataclasses import dataclass

import numpy as np

from sppnet.common.arrays import FloatArray

TARGET_NORM = 20.0  # Mean L2 norm of the features (R-CNN and SPP-net, released code).


def norm_factor(mean_norm: float, target: float = TARGET_NORM) -> float:
    """Computes the factor that brings features of a mean L2 norm to the target norm.

    Args:
        mean_norm: mean L2 norm of the training features.
        target: mean L2 norm of the features that the SVMs are trained on.

    Raises:
        ValueError: the mean norm is not a positive number.

    Example:
        >>> norm_factor(40.0) == TARGET_NORM / 40
        True
    """
    if not (np.isfinite(mean_norm) and mean_norm > 0):
        raise ValueError(f"mean feature norm is {mean_norm}; it must be positive: are all features zero?")
    return target / mean_norm


@dataclass(frozen=True, eq=False)
class LinearSVMs:
    """Linear SVMs, one per class.

    Attributes:
        weights: float32 (C, d), for features times ``norm_factor``.
        bias: float32 (C,).
        norm_factor: the factor on features before the weights, from `svm.norm_factor` on the training set.

    Example:
        >>> weights = np.array([[1, 2], [0, -1]], np.float32)
        >>> svms = LinearSVMs(weights, bias=np.array([0.5, 0], np.float32), norm_factor=0.5)
        >>> svms.score(np.array([[2, 4]], np.float32))
        array([[ 5.5, -2. ]], dtype=float32)
    """

    weights: FloatArray
    bias: FloatArray
    norm_factor: float

    def score(self, features: FloatArray) -> FloatArray:
        """Scores feature vectors for all classes, in one matrix product.

        Args:
            features: (N, d), not yet multiplied by ``norm_factor``.

        Returns:
            float32 (N, C), positive if the SVM says yes; the margins are at 1 and -1.

        Raises:
            ValueError: the features do not have length d.
        """
        if features.ndim != 2 or features.shape[1] != self.weights.shape[1]:
            raise ValueError(f"features are {features.shape}; the SVMs take (N, {self.weights.shape[1]})")
        products = features.astype(np.float32, copy=False) @ self.weights.T
        scores: FloatArray = products * np.float32(self.norm_factor) + self.bias
        return scores
