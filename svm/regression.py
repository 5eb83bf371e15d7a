"""Box regression per class: ridge regression on pooled features (R-CNN, appendix C; the released code)."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh

from sppnet.common.arrays import FloatArray

# A side grows at most from a cell (16 pixels) to a whole image (1000 pixels), so that exp() cannot overflow
# on a wild prediction (constant from detectron2).
MAX_LOG_SCALE = math.log(1000 / 16)


@dataclass(frozen=True)
class RegressionSettings:
    """Settings of the training samples of box regressors, and of the ridge regression.

    Attributes:
        min_iou: least IoU of a training proposal with ground truth of its class: 0.5 (SPP-net, paper and
            released code; R-CNN has 0.6).
        penalty: lambda in ||X w - t||^2 + lambda ||w||^2, for features times ``norm_factor``: 4000 (SPP-net,
            released code; R-CNN has 1000).
        whitening: added to the variances of the targets before they are whitened: 1e-3 (released code). Its
            value does not matter: see `fit_deltas`.
        max_samples: training proposals kept per class, drawn evenly from all: 5,000, our bound on memory and
            time.
        seed: seed of that draw.

    Raises:
        ValueError: a value is out of its range.

    Example:
        >>> RELEASED_REGRESSION == RegressionSettings()
        True
        >>> RCNN_REGRESSION.min_iou, RCNN_REGRESSION.penalty
        (0.6, 1000.0)
    """

    min_iou: float = 0.5
    penalty: float = 4000.0
    whitening: float = 1e-3
    max_samples: int = 5000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.min_iou <= 1 or min(self.penalty, self.whitening) <= 0 or self.max_samples < 1:
            raise ValueError(f"{self}: min_iou must be in (0, 1], the other values positive")


RELEASED_REGRESSION = RegressionSettings()
RCNN_REGRESSION = RegressionSettings(min_iou=0.6, penalty=1000.0)


def encode_boxes(boxes: FloatArray, targets: FloatArray) -> FloatArray:
    """Encodes targets as deltas of boxes; `apply_deltas` is the inverse.

    Args:
        boxes: (N, 4) xyxy.
        targets: (N, 4) xyxy, the target of each box.

    Returns:
        float32 (N, 4) deltas (R-CNN, appendix C): dx and dy are the shift of the centre as a fraction of the
        box' width and height; dw and dh are the logarithms of the ratios of widths and heights.

    Raises:
        ValueError: a box has no area.

    Example:
        >>> boxes = np.array([[0, 0, 10, 20]], np.float32)
        >>> targets = np.array([[10, 5, 20, 25]], np.float32)
        >>> encode_boxes(boxes, targets)
        array([[1.  , 0.25, 0.  , 0.  ]], dtype=float32)
        >>> apply_deltas(boxes, encode_boxes(boxes, targets))
        array([[10.,  5., 20., 25.]], dtype=float32)
    """
    centres, sizes = _centres_and_sizes(boxes)
    target_centres, target_sizes = _centres_and_sizes(targets)
    if not ((sizes > 0).all() and (target_sizes > 0).all()):
        raise ValueError("boxes must have x2 > x1 and y2 > y1 to be regressed")
    parts = (target_centres - centres) / sizes, np.log(target_sizes / sizes)
    return np.concatenate(parts, axis=1).astype(np.float32)


def apply_deltas(boxes: FloatArray, deltas: FloatArray) -> FloatArray:
    """Moves boxes by deltas; `encode_boxes` is the inverse.

    Args:
        boxes: (N, 4) xyxy.
        deltas: (N, 4) dx, dy, dw, dh as `encode_boxes` returns them; dw and dh are limited to
            `MAX_LOG_SCALE`.

    Returns:
        float32 (N, 4) xyxy, not clipped to an image.

    Example:
        >>> boxes = np.array([[0, 0, 10, 20]], np.float32)
        >>> apply_deltas(boxes, np.array([[0.5, 0, 0, 0]], np.float32))
        array([[ 5.,  0., 15., 20.]], dtype=float32)
        >>> x1, _, x2, _ = apply_deltas(boxes, np.array([[0, 0, 99, 0]], np.float32))[0]
        >>> round(float(x2 - x1)) == round(10 * math.exp(MAX_LOG_SCALE))
        True
    """
    centres, sizes = _centres_and_sizes(boxes)
    deltas = np.asarray(deltas, np.float64)
    moved = centres + deltas[:, :2] * sizes
    half = 0.5 * sizes * np.exp(np.minimum(deltas[:, 2:], MAX_LOG_SCALE))
    return np.concatenate([moved - half, moved + half], axis=1).astype(np.float32)


def _centres_and_sizes(boxes: FloatArray) -> tuple[np.ndarray, np.ndarray]:
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    return (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]


def ridge(features: FloatArray, targets: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Minimises ||X w + b - t||^2 + penalty (||w||^2 + b^2): the bias is penalised, as in the released code.

    Solves the normal equations by Cholesky, n x n if there are fewer samples than features, else d x d; the
    solution is the same. Products of features are computed in the features' precision, all else in float64.

    Args:
        features: (n, d), n > 0.
        targets: (n, k).
        penalty: lambda, greater than 0.

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
    features: FloatArray, deltas: FloatArray, settings: RegressionSettings
) -> tuple[FloatArray, FloatArray]:
    """Trains the regressor of one class.

    As in the released code, the four deltas are centred and whitened (ZCA) for the ridge regression; the
    inverse is folded into the result. Centring matters because the bias is penalised. Whitening does not
    matter: the solution of a ridge regression is linear in its targets, and with one penalty for all four
    deltas the inverse undoes the whitening exactly.

    Args:
        features: float32 (n, d), times ``norm_factor``, n > 0.
        deltas: float32 (n, 4) from `encode_boxes`.
        settings: the penalty and the whitening.

    Returns:
        float32 weights (4, d) and bias (4,): predicted deltas are ``weights @ x + bias``.
    """
    targets = deltas.astype(np.float64)
    mean = targets.mean(axis=0)
    targets -= mean
    variances, axes = eigh(targets.T @ targets / len(targets))
    deviations = np.sqrt(np.maximum(variances, 0) + settings.whitening)
    whiten, colour = (axes / deviations) @ axes.T, (axes * deviations) @ axes.T
    weights, bias = ridge(features, targets @ whiten, settings.penalty)
    return (weights @ colour).T.astype(np.float32), (bias @ colour + mean).astype(np.float32)


@dataclass(frozen=True, eq=False)
class BoxRegressors:
    """Box regressors, one per class.

    A class without training samples has a regressor of zeros, which moves nothing.

    Attributes:
        weights: float32 (C, 4, d), for features times ``norm_factor``; whitening is folded in.
        bias: float32 (C, 4).
        norm_factor: the factor on features before the weights; the SVMs have the same (released code).

    Example:
        >>> regressors = BoxRegressors(
        ...     weights=np.ones((2, 4, 3), np.float32), bias=np.zeros((2, 4), np.float32), norm_factor=0.1
        ... )
        >>> regressors.deltas(np.ones((5, 3), np.float32)).shape
        (5, 2, 4)
    """

    weights: FloatArray
    bias: FloatArray
    norm_factor: float

    def deltas(self, features: FloatArray) -> FloatArray:
        """Predicts the deltas of each box for each class, in one matrix product.

        Args:
            features: (N, d), the features of the boxes, not yet multiplied by ``norm_factor``.

        Returns:
            float32 (N, C, 4), for `apply_deltas`.

        Raises:
            ValueError: the features do not have length d.
        """
        classes, _, dimension = self.weights.shape
        if features.ndim != 2 or features.shape[1] != dimension:
            raise ValueError(f"features are {features.shape}; the regressors take (N, {dimension})")
        products = features.astype(np.float32, copy=False) @ self.weights.reshape(-1, dimension).T
        deltas: FloatArray = products.reshape(-1, classes, 4) * np.float32(self.norm_factor) + self.bias
        return deltas
