"""Bounding-box regression per class: ridge on pooled features (R-CNN, appendix C, and the released code)."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh

from sppnet.common.arrays import FloatArray

# No box grows more than from one cell (16 px) to a whole image (1000 px) in a side: keeps exp() from
# overflowing on a wild prediction (the constant is detectron2's).
MAX_LOG_SCALE = math.log(1000 / 16)


@dataclass(frozen=True)
class RegressionSettings:
    """Which windows train the regressors, and the ridge.

    Attributes:
        min_iou: least IoU of a training window with ground truth of its class: 0.5 (SPP-net, paper and
            released code; R-CNN has 0.6).
        penalty: lambda in ||X w - t||^2 + lambda ||w||^2, features scaled as for the SVMs: 4000 (SPP-net,
            released code; R-CNN has 1000).
        whitening: added to the variances of the targets before they are whitened: 1e-3 (released code). Its
            value does not matter: see `fit_deltas`.
        max_samples: windows kept per class, drawn evenly from all there are; our own bound on memory and
            time.
        seed: of that draw.
    """

    min_iou: float = 0.5
    penalty: float = 4000.0
    whitening: float = 1e-3
    max_samples: int = 5000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.min_iou <= 1 or min(self.penalty, self.whitening) <= 0 or self.max_samples < 1:
            raise ValueError(f"{self}: min_iou must be in (0, 1], the rest positive")


RELEASED_REGRESSION = RegressionSettings()
RCNN_REGRESSION = RegressionSettings(min_iou=0.6, penalty=1000.0)


def encode_boxes(boxes: FloatArray, targets: FloatArray) -> FloatArray:
    """What takes each box to its target; `apply_deltas` is the inverse.

    Args:
        boxes: (N, 4) xyxy.
        targets: (N, 4) xyxy.

    Returns:
        float32 (N, 4): dx, dy of the centre in parts of the box' width and height, and the logarithms dw,
        dh of how many times wider and higher the target is (R-CNN, appendix C).

    Raises:
        ValueError: a box without area.
    """
    centres, sizes = _centres_and_sizes(boxes)
    target_centres, target_sizes = _centres_and_sizes(targets)
    if not ((sizes > 0).all() and (target_sizes > 0).all()):
        raise ValueError("boxes must have x2 > x1 and y2 > y1 to be regressed")
    parts = (target_centres - centres) / sizes, np.log(target_sizes / sizes)
    return np.concatenate(parts, axis=1).astype(np.float32)


def apply_deltas(boxes: FloatArray, offsets: FloatArray) -> FloatArray:
    """Applies `encode_boxes`: float32 (N, 4) xyxy, not clipped to an image.

    The logarithms are limited to `MAX_LOG_SCALE`; below it this is the exact inverse.
    """
    centres, sizes = _centres_and_sizes(boxes)
    deltas = np.asarray(offsets, np.float64)
    moved = centres + deltas[:, :2] * sizes
    half = 0.5 * sizes * np.exp(np.minimum(deltas[:, 2:], MAX_LOG_SCALE))
    return np.concatenate([moved - half, moved + half], axis=1).astype(np.float32)


def _centres_and_sizes(boxes: FloatArray) -> tuple[np.ndarray, np.ndarray]:
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    return (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]


def ridge(features: FloatArray, targets: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Least of ||X w + b - t||^2 + penalty (||w||^2 + b^2): the bias is penalised, as in the released code.

    Solves the normal equations by Cholesky: n x n where there are fewer samples than features, else d x d;
    the solution is the same. Products of features are in the features' own precision, the rest in float64.

    Args:
        features: (n, d), n > 0.
        targets: (n, k).
        penalty: lambda > 0.

    Returns:
        float64 weights (d, k) and bias (k,).
    """
    count, dimension = features.shape
    if count < dimension:
        gram = (features @ features.T).astype(np.float64) + 1.0
        gram.flat[:: count + 1] += penalty
        dual = cho_solve(cho_factor(gram, lower=True, overwrite_a=True), np.asarray(targets, np.float64))
        return (features.T @ dual.astype(features.dtype)).astype(np.float64), dual.sum(axis=0)
    gram = np.empty((dimension + 1, dimension + 1))
    gram[:-1, :-1] = features.T @ features
    gram[-1, :-1] = gram[:-1, -1] = features.sum(axis=0, dtype=np.float64)
    gram[-1, -1] = count
    gram.flat[:: dimension + 2] += penalty
    sums = np.vstack([features.T @ targets.astype(features.dtype), targets.sum(axis=0)])
    solution = cho_solve(cho_factor(gram, lower=True, overwrite_a=True), sums.astype(np.float64))
    return solution[:-1], solution[-1]


def fit_deltas(
    features: FloatArray, offsets: FloatArray, settings: RegressionSettings
) -> tuple[FloatArray, FloatArray]:
    """One class' regressor.

    The four offsets are centred and whitened (ZCA) for the ridge, as in the released code; the way back is
    folded into what is returned. Centring matters, for the bias is penalised. Whitening does not: the
    solution of a ridge is linear in its targets, so that with one penalty for all four the way back undoes
    it exactly.

    Args:
        features: float32 (n, d), scaled, n > 0.
        offsets: float32 (n, 4) from `encode_boxes`.
        settings: penalty and whitening.

    Returns:
        float32 weights (4, d) and bias (4,): predicted offsets are ``weights @ x + bias``.
    """
    targets = offsets.astype(np.float64)
    mean = targets.mean(axis=0)
    targets -= mean
    variances, axes = eigh(targets.T @ targets / len(targets))
    deviations = np.sqrt(np.maximum(variances, 0) + settings.whitening)
    whiten, colour = (axes / deviations) @ axes.T, (axes * deviations) @ axes.T
    weights, bias = ridge(features, targets @ whiten, settings.penalty)
    return (weights @ colour).T.astype(np.float32), (bias @ colour + mean).astype(np.float32)


@dataclass(frozen=True, eq=False)
class BoxRegressors:
    """One bounding-box regressor a class; all zero, moving nothing, where a class had no samples.

    Attributes:
        weights: float32 (C, 4, d), for features times ``norm_factor``; whitening folded in.
        bias: float32 (C, 4).
        norm_factor: what features are multiplied by; that of the SVMs, as in the released code.
    """

    weights: FloatArray
    bias: FloatArray
    norm_factor: float

    def deltas(self, features: FloatArray) -> FloatArray:
        """What each class' regressor says of each window: one matrix product.

        Args:
            features: (N, d), unscaled.

        Returns:
            float32 (N, C, 4), for `apply_deltas`.

        Raises:
            ValueError: features of another length.
        """
        classes, _, dimension = self.weights.shape
        if features.ndim != 2 or features.shape[1] != dimension:
            raise ValueError(f"features are {features.shape}; the regressors take (N, {dimension})")
        products = features.astype(np.float32, copy=False) @ self.weights.reshape(-1, dimension).T
        moved: FloatArray = products.reshape(-1, classes, 4) * np.float32(self.norm_factor) + self.bias
        return moved
