"""Calibration fitted on held-out training images, none of which the detector itself has to do without.

A detector scores the images that it was trained on too well. So parts of them are judged by detectors whose
SVMs were trained without these parts (`train_with_folds`). Their detections, right and wrong, give the maps
and the thresholds of the detector that is trained on all images.
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize

from sppnet.common.arrays import FloatArray, read_arrays
from sppnet.common.checkpoint import disk_errors_named
from sppnet.common.errors import DamageError
from sppnet.common.files import NPZ_ERRORS, atomic_path, json_digest
from sppnet.common.prefetch import prefetch
from sppnet.common.progress import Progress
from sppnet.data.detections import Detections
from sppnet.data.types import Example
from sppnet.detection.backbones import tensors_digest
from sppnet.detection.calibration import (
    LEAST_PROBABILITY,
    PRIOR_OBJECTS,
    Calibration,
    logistic,
    segments,
)
from sppnet.detection.detector import Detector
from sppnet.detection.training.presets import CalibrationSettings
from sppnet.detection.training.training_images import TrainingData
from sppnet.eval.boxes import Float64
from sppnet.eval.calibration import MatchedDetections, match_detections
from sppnet.proposals import image_key, propose_cached

_LOG = logging.getLogger(__name__)
# On held-out training images knots gave a lower log loss than none and than isotonic regression; of one to
# three, which were equal there, three had the smallest error (docs/figures.md).
KNOT_QUANTILES = (0.25, 0.5, 0.75)
_BINS = 2000
# A map must rise, or detections of a class would change their order.
_LEAST_SLOPE = 1e-3
# The files of a calibration in a training's work folder begin with this.
_CALIBRATION = "calibration"

# A detector, and those that judge parts of its training images as if they were new.
Trained = tuple[Detector, list[Detector]]


def kept_detectors(work: Path, images_digest: str, train: Callable[[Path], Trained]) -> Trained:
    """Trained detectors that are kept in their work folder until the first of them is calibrated.

    Args:
        work: the folder. Once the detectors are there, checkpoints and samples of the training are removed.
        images_digest: the `Dataset.digest` of the training images; detectors of other images are not used.
        train: trains the detectors, with ``work`` for its checkpoints and samples; called where there are
            none.

    Raises:
        InputError: see ``train``; or the folder cannot be written.
    """
    kept = work / f"{_CALIBRATION}-{images_digest[:16]}"
    if (kept / "model.json").exists():
        numbers = sorted(int(path.name) for path in kept.iterdir() if path.name.isdigit())
        try:
            return Detector.load(kept), [Detector.load(kept / str(number)) for number in numbers]
        except DamageError as error:
            _LOG.warning("%s; it counts as not trained yet", error)
    detector, fold_detectors = train(work)
    for number, fold_detector in enumerate(fold_detectors):
        fold_detector.save(kept / str(number))
    # The last one, for it says that all are there.
    detector.save(kept)
    for path in work.iterdir():
        if path != kept:
            shutil.rmtree(path, ignore_errors=True)
    return detector, fold_detectors


def calibrated(
    detector: Detector,
    fold_detectors: Sequence[Detector],
    folds: Sequence[Sequence[int]],
    data: TrainingData,
    work: Path,
    progress: Progress,
) -> Detector:
    """A detector with a calibration, fitted on parts of its training images.

    It can be stopped at any moment: run again, it goes on. At most the detections of a fold are lost.

    Args:
        detector: trained on all images.
        fold_detectors: one for each part, of the same kind, but not trained on that part.
        folds: the indices of the images of each part.
        data: the images.
        work: folder of the detections of each part; the caller's to remove.
        progress: called with a stage's name, images done, images in all.

    Returns:
        the detector; without calibration where the held-out images hold no object, or none was found.
    """
    parts = []
    done, total = 0, sum(map(len, folds))
    for number, (fold_detector, fold) in enumerate(zip(fold_detectors, folds, strict=True)):
        file = work / f"{_CALIBRATION}-{number}-{_held_out_digest(fold_detector, data, fold)}.npz"
        matched = _read(file)
        if matched is None:

            def report(stage: str, part: int, _: int, before: int = done) -> None:
                progress(stage, before + part, total)

            matched = detect_held_out(fold_detector, data, fold, report)
            with disk_errors_named(work):
                work.mkdir(parents=True, exist_ok=True)
                _write(file, matched)
        done += len(fold)
        parts.append(matched)
    calibration = fit_calibration(MatchedDetections.merge(parts)) if parts else None
    return replace(detector, calibration=calibration)


def _held_out_digest(detector: Detector, data: TrainingData, fold: Sequence[int]) -> str:
    """Tells detections of another detector, or of other images, apart."""
    head = {name: torch.from_numpy(array) for name, array in detector.head.tensors().items()}
    about = {"head": tensors_digest(head), "dataset": data.dataset.digest(), "images": list(map(int, fold))}
    return json_digest(about)[:16]


def held_out_folds(count: int, settings: CalibrationSettings, seed: int) -> list[list[int]]:
    """The parts of the training images that are held out, one after the other.

    Args:
        count: of the training images.
        settings: of the calibration.
        seed: of the choice.

    Returns:
        for each part the indices of its images, in order; no parts where a single image would leave none to
        train on.

    Example:
        >>> few, many = (held_out_folds(count, CalibrationSettings(), seed=0) for count in (10, 2500))
        >>> [len(fold) for fold in few], [len(fold) for fold in many]
        ([4, 3, 3], [100, 100, 100])
    """
    if count < 2:
        return []
    chosen = np.random.default_rng(seed).permutation(count)[: settings.images]
    return [sorted(fold.tolist()) for fold in np.array_split(chosen, min(settings.folds, len(chosen)))]


def detect_held_out(
    detector: Detector, data: TrainingData, indices: Sequence[int], progress: Progress
) -> MatchedDetections:
    """Detects in some of the training images, and tells right from wrong.

    Args:
        detector: was not trained on them.
        data: the images, their proposals and their maps.
        indices: of the images.
        progress: called with a stage's name, images done, images in all.
    """
    extractor = detector.extractor
    store = extractor.store(data.maps, data.map_bytes)
    dataset = replace(data.dataset, examples=tuple(data.dataset[index] for index in indices))

    def prepare(example: Example) -> tuple[Example, FloatArray, Any]:
        key = image_key(example)
        proposals = propose_cached(key, example.read, data.engine, data.cache)
        prepared = store.get(key.image_digest, lambda: extractor.prepare(example.read()))
        return example, proposals, prepared

    detections: dict[str, Detections] = {}
    progress("calibration", 0, len(dataset))
    for example, proposals, prepared in prefetch(prepare, dataset, ahead=1):
        proposed, deltas = detector.score(prepared, proposals)
        detections[example.image_id] = detector.regress(proposed, deltas, (example.height, example.width))
        progress("calibration", len(detections), len(dataset))
    return match_detections(dataset, detections)


def fit_calibration(
    matched: MatchedDetections, knot_quantiles: Sequence[float] = KNOT_QUANTILES
) -> Calibration | None:
    """Fits a map for each class.

    A class is fitted on its own detections and, with the weight of `PRIOR_OBJECTS` objects, on those of all
    classes.

    Args:
        matched: held-out detections with their raw scores.
        knot_quantiles: the knots are these quantiles of the scores of right detections; none: Platt's map.

    Returns:
        None where no detection is right.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> scores = rng.normal(size=9000).astype(np.float32)
        >>> correct = rng.random(9000) < logistic(3.0 * scores - 2.0)
        >>> matched = MatchedDetections(scores, np.zeros(9000, np.int64), correct, np.array([correct.sum()]))
        >>> fit_calibration(matched).probabilities(np.array([2 / 3]), np.array([0])).round(1).tolist()
        [0.5]
    """
    total, classes = int(matched.ground_truths.sum()), len(matched.ground_truths)
    if not matched.correct.any() or not total:
        return None
    scores = matched.scores.astype(np.float64)
    knots = np.unique(np.quantile(scores[matched.correct], np.array(knot_quantiles)))
    # Hundreds of thousands of detections, most of them hopeless, count in narrow bins of their scores.
    width = max((scores.max() - scores.min()) / _BINS, np.finfo(np.float64).tiny)
    bins = np.minimum(((scores - scores.min()) / width).astype(np.int64), _BINS - 1)
    number = np.bincount(bins, minlength=_BINS)
    values = np.bincount(bins, scores, _BINS)[number > 0] / number[number > 0]
    cells = matched.labels * _BINS + bins
    right, wrong = (
        np.bincount(cells[chosen], minlength=classes * _BINS).reshape(classes, _BINS)[:, number > 0]
        for chosen in (matched.correct, ~matched.correct)
    )
    prior = PRIOR_OBJECTS / total
    maps = [
        fit_rising_map(
            values, right[label] + prior * right.sum(axis=0), wrong[label] + prior * wrong.sum(axis=0), knots
        )
        for label in range(classes)
    ]
    slopes, intercepts = (np.array(part) for part in zip(*maps, strict=True))
    calibration = Calibration(knots, slopes, intercepts, matched)
    probabilities = calibration.probabilities(matched.scores, matched.labels)
    kept = probabilities >= LEAST_PROBABILITY
    held_out = MatchedDetections(
        probabilities[kept], matched.labels[kept], matched.correct[kept], matched.ground_truths
    )
    return replace(calibration, held_out=held_out)


def fit_rising_map(values: Float64, right: Float64, wrong: Float64, knots: Float64) -> tuple[Float64, float]:
    """The rising map of greatest likelihood, logistic with a slope a segment, with Platt's targets.

    The targets of right and wrong detections are not 1 and 0 but a little less and more, by their numbers
    (Platt 1999, §2.2), so that a few detections that happen to be apart do not give an infinite slope.

    Args:
        values: (N,), scores.
        right: (N,), the weight of right detections of each score.
        wrong: (N,), that of wrong ones.
        knots: (K,), see `Calibration`.

    Returns:
        float64 (K + 1,) slopes, and the intercept.

    Example:
        >>> values, none = np.array([-1.0, 1.0]), np.zeros(0)
        >>> slopes, intercept = fit_rising_map(values, np.array([0, 1.0]), np.array([1.0, 0]), none)
        >>> slopes.round(2).tolist(), abs(round(intercept, 2))
        ([0.69], 0.0)
    """
    parts = segments(values, knots)
    weights, total = right + wrong, right.sum() + wrong.sum()
    targets = right * (right.sum() + 1) / (right.sum() + 2) + wrong / (wrong.sum() + 2)

    def loss(parameters: Float64) -> tuple[float, Float64]:
        logits = parts @ parameters[:-1] + parameters[-1]
        errors = weights * logistic(logits) - targets
        value = np.sum(weights * np.logaddexp(0, logits) - targets * logits)
        return value / total, np.append(errors @ parts, errors.sum()) / total

    count = parts.shape[1]
    result = minimize(
        loss, np.append(np.ones(count), 0.0), jac=True, method="L-BFGS-B",
        bounds=[(_LEAST_SLOPE, None)] * count + [(None, None)],
        options={"ftol": 1e-13, "gtol": 1e-9, "maxiter": 5000, "maxfun": 20000},
    )  # fmt: skip
    return result.x[:-1], float(result.x[-1])


def _write(file: Path, matched: MatchedDetections) -> None:
    # Without waiting for the disk: `_read` notices what a power cut left.
    with atomic_path(file, durable=False) as path:
        np.savez(path, **vars(matched))


def _read(file: Path) -> MatchedDetections | None:
    """The detections of a fold; None where there are none, or a power cut left half of them."""
    try:
        return MatchedDetections(**read_arrays(file))
    except NPZ_ERRORS:
        return None
