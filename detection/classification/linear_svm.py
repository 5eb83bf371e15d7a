"""One-vs-rest linear SVMs on vectors of images, for VOC and Caltech101 (§3.2, §3.3)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sppnet.common.arrays import FloatArray, IntArray
from sppnet.common.cores import allowed_cores
from sppnet.common.errors import InputError
from sppnet.eval import evaluate_voc_classification
from sppnet.svm import LinearSVMs, Problem, Solution, SolverSettings, train_svms

# Values of C to choose from, for vectors of norm 1. Our choice; VOC2007 is best at 1 with AlexNet's maps.
COSTS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
# Number of folds of the cross-validation that selects C; our choice.
_FOLDS = 4
# Added to the squared norms (1) of the vectors, so that equal images do not make the matrix singular.
_JITTER = 1e-5

Labels = NDArray[np.int8]
Measure = Callable[[Labels, FloatArray], float]


@dataclass(frozen=True, eq=False)
class LinearFit:
    """Trained SVMs, and the results of the search for C.

    Attributes:
        svms: the SVMs, trained on all images.
        cost: C, the best value tried; of equally good values the smallest.
        tried: each value of C to the measure on training images that were held out in turn.
    """

    svms: LinearSVMs
    cost: float
    tried: Mapping[float, float]


def fit_linear(
    features: FloatArray,
    labels: Labels,
    measure: Measure,
    costs: Sequence[float] = COSTS,
    seed: int = 0,
    threads: int = 0,
) -> LinearFit:
    """Trains one SVM per class; selects C by cross-validation on these images.

    The objective is liblinear's ``-s 3 -B 1``: `SolverSettings` with a bias multiplier of 1, which suits
    vectors of norm 1, and equal weights for positives and negatives.

    Args:
        features: float32 (N, d), rows of norm 1.
        labels: int8 (N, K): 1 for images of the class, -1 for other images, 0 for images to leave out.
        measure: rates scores (N, K) by labels (N, K); higher is better.
        costs: the values of C to try.
        seed: seed of the folds and of the solver.
        threads: number of classes trained at a time; 0: one per core. The result does not depend on it.

    Raises:
        InputError: there are fewer images than folds (4).

    Example:
        >>> features = np.eye(4, dtype=np.float32)[[0, 1, 0, 1, 0, 1, 0, 1]]
        >>> labels = np.where(features[:, :2] > 0, 1, -1).astype(np.int8)
        >>> def agreement(labels, scores):
        ...     return float((labels * np.sign(scores)).mean())
        >>> fit = fit_linear(features, labels, agreement, costs=(1.0, 10.0))
        >>> fit.cost, fit.svms.score(features).argmax(axis=1).tolist()
        (1.0, [0, 1, 0, 1, 0, 1, 0, 1])
    """
    check_image_count(len(features))
    threads = threads or allowed_cores()
    rows = reduce_to_span(features)
    # Images may come class by class; after a shuffle each fold has about its share of each class.
    folds = np.random.default_rng(seed).permutation(len(features)) % _FOLDS
    tried = {}
    starts: list[NDArray[np.float32] | None] = [None] * _FOLDS
    scores = np.empty(labels.shape, np.float32)
    for cost in sorted(costs):
        settings = SolverSettings(cost=cost, bias_multiplier=1.0, positive_weight=1.0, seed=seed)
        for fold in range(_FOLDS):
            held_out = folds == fold
            duals, solutions = _train(rows, labels, ~held_out, settings, threads, starts[fold])
            starts[fold] = duals
            weights = np.asarray([solution.weights for solution in solutions])
            scores[held_out] = _svms(weights, solutions).score(rows[held_out])
        tried[cost] = measure(labels, scores)
    best = max(tried, key=lambda cost: tried[cost])
    settings = SolverSettings(cost=best, bias_multiplier=1.0, positive_weight=1.0, seed=seed)
    all_images = np.ones(len(features), np.bool_)
    duals, solutions = _train(rows, labels, all_images, settings, threads, None)
    weights = (duals * labels.T.astype(np.float32)) @ features
    return LinearFit(_svms(weights, solutions), best, tried)


def check_image_count(images: int) -> None:
    """Checks before the vectors are computed that there are enough images to cross-validate on.

    Raises:
        InputError: there are fewer images than folds (4).
    """
    if images < _FOLDS:
        raise InputError(f"{images} training images; linear SVMs need at least {_FOLDS}")


def reduce_to_span(features: FloatArray) -> FloatArray:
    """Returns shorter vectors with the same inner products; an SVM depends on nothing else.

    If there are fewer images than numbers in a vector (N < d), training is faster by d / N.

    Args:
        features: float32 (N, d), rows of norm 1.

    Returns:
        float32 (N, N) if N is less than d, else ``features`` itself.

    Example:
        >>> reduce_to_span(np.eye(3, 100, dtype=np.float32)).shape
        (3, 3)
    """
    if len(features) >= features.shape[1]:
        return features
    products = (features @ features.T).astype(np.float64)
    products.flat[:: len(features) + 1] += _JITTER
    try:
        return np.linalg.cholesky(products).astype(np.float32)
    except np.linalg.LinAlgError:
        # With thousands of nearly equal images, rounding errors of the products are larger than the jitter.
        return features


def _train(
    rows: FloatArray,
    labels: Labels,
    seen: NDArray[np.bool_],
    settings: SolverSettings,
    threads: int,
    starts: NDArray[np.float32] | None,
) -> tuple[FloatArray, list[Solution]]:
    """Trains one SVM per class on the rows in ``seen``; returns duals (K, N), else 0, and the solutions."""
    problems = []
    for label, signs in enumerate(labels.T):
        chosen = np.flatnonzero(seen & (signs != 0))
        start = None if starts is None else starts[label, chosen]
        problems.append(Problem(chosen, signs[chosen] > 0, start))
    solutions = train_svms(rows, problems, settings, threads=threads)
    duals = np.zeros((labels.shape[1], len(labels)), np.float32)
    for row, problem, solution in zip(duals, problems, solutions, strict=True):
        row[problem.rows] = solution.alphas
    return duals, solutions


def _svms(weights: FloatArray, solutions: Sequence[Solution]) -> LinearSVMs:
    bias = np.array([solution.bias for solution in solutions], np.float32)
    return LinearSVMs(weights, bias, 1.0)


def fit_voc(features: FloatArray, labels: Labels, seed: int = 0) -> LinearFit:
    """Trains on VOC's image labels; selects the C with the highest mAP.

    Args:
        features: as in `fit_linear`.
        labels: int8 (N, K), from `sppnet.eval.image_labels`.
        seed: as in `fit_linear`.

    Raises:
        InputError: there are fewer images than folds, or no image has a class.
    """
    check_voc_labels(labels)
    names = tuple(map(str, range(labels.shape[1])))

    def mean_ap(labels: Labels, scores: FloatArray) -> float:
        return evaluate_voc_classification(labels, scores, names).map_11point

    return fit_linear(features, labels, mean_ap, seed=seed)


def check_voc_labels(labels: Labels) -> None:
    """Checks before the vectors are computed that SVMs can be trained on VOC's image labels.

    Args:
        labels: int8 (N, K), from `sppnet.eval.image_labels`.

    Raises:
        InputError: there are fewer images than folds (4), or no image has a class.
    """
    check_image_count(len(labels))
    if not (labels > 0).any():
        raise InputError("no training image has an object that is not difficult; take more images")


def fit_folder(features: FloatArray, labels: IntArray, classes: int, seed: int = 0) -> LinearFit:
    """Trains on images of one class each; selects the C with the highest mean accuracy of the classes.

    Args:
        features: float32 (N, d), rows of norm 1.
        labels: int64 (N,), each class at least once.
        classes: number of classes.
        seed: as in `fit_linear`.

    Raises:
        InputError: there are fewer images than folds.
    """

    def accuracy(labels: Labels, scores: FloatArray) -> float:
        return float(class_accuracy(labels.argmax(axis=1), scores).mean())

    one_hot = np.where(labels[:, None] == np.arange(classes), 1, -1).astype(np.int8)
    return fit_linear(features, one_hot, accuracy, seed=seed)


def class_accuracy(labels: IntArray, scores: FloatArray) -> NDArray[np.float64]:
    """Computes the share of each class's images whose own class has the highest score.

    Args:
        labels: int64 (N,), each class at least once.
        scores: float32 (N, K).

    Returns:
        float64 (K,).

    Example:
        >>> scores = np.array([[3, 1], [1, 3], [0, 1]], np.float32)
        >>> class_accuracy(np.array([0, 0, 1]), scores)
        array([0.5, 1. ])
    """
    right = scores.argmax(axis=1) == labels
    share: NDArray[np.float64] = np.bincount(labels, right) / np.bincount(labels)
    return share


def split_images(
    labels: IntArray, classes: Sequence[str], per_class: int, test_per_class: int, seed: int
) -> tuple[IntArray, IntArray]:
    """Splits images at random, with the same number of training images per class (Caltech101's protocol).

    Args:
        labels: int64 (N,), the class of each image.
        classes: the class names.
        per_class: number of training images per class (§3.3: 30).
        test_per_class: largest number of test images per class (§3.3: 50).
        seed: seed of the choice.

    Returns:
        indices of training images, and of test images, class by class.

    Raises:
        InputError: a class has no image left to test on.

    Example:
        >>> train, test = split_images(np.array([0, 0, 0, 1, 1]), ("a", "b"), 1, 50, seed=0)
        >>> len(train), len(test)
        (2, 3)
    """
    rng = np.random.default_rng(seed)
    train, test = [], []
    for label, name in enumerate(classes):
        images = rng.permutation(np.flatnonzero(labels == label))
        if len(images) <= per_class:
            raise InputError(
                f"class {name!r}: {len(images)} images, {per_class} of them to train on, leave none to "
                "test on; add images or lower --per-class"
            )
        train.append(images[:per_class])
        test.append(images[per_class : per_class + test_per_class])
    return np.concatenate(train), np.concatenate(test)
