"""Calibration on VOC2007: maps from scores to probabilities beside each other, errors, thresholds, minutes.

    python -m benchmarks.calibration FOLDER [--voc-root VOCdevkit] [--train 300] [--test 150]

Trains a detector with the default settings on the first training images, and those of folds, as a run does.
Detects in the folds and in the first test images. The kind of map is chosen on the held-out training images:
maps are fitted on all folds but one and judged on that one. Then each is fitted on all folds and judged on
the test images, which no fit and no choice has seen. FOLDER keeps the detections: called again, only the fits
are done again.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.isotonic import IsotonicRegression

from sppnet.common.arrays import FloatArray, IntArray
from sppnet.common.progress import quiet
from sppnet.common.text import percent
from sppnet.data import Dataset, load_dataset
from sppnet.detection.calibration import PRIOR_OBJECTS, Calibration, logistic
from sppnet.detection.detector import Detector
from sppnet.detection.runs.run import Run
from sppnet.detection.training import TrainingData, make_settings
from sppnet.detection.training.calibration_fitting import (
    KNOT_QUANTILES,
    Trained,
    detect_held_out,
    fit_calibration,
    held_out_folds,
    kept_detectors,
)
from sppnet.detection.training.svm_training import train_with_folds
from sppnet.eval.boxes import Float64
from sppnet.eval.calibration import MatchedDetections, plot_reliability, reliability, working_point
from sppnet.proposals import ProposalCache

Map = Callable[[Float64], Float64]
# Errors are given over all detections, and over those that a threshold might show.
_SHOWN = 0.05
_KEPT = "3 knots"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--voc-root", default=None)
    parser.add_argument("--train", type=int, default=300)
    parser.add_argument("--test", type=int, default=150)
    arguments = parser.parse_args()
    train, test = (
        load_dataset("voc2007", split, root=arguments.voc_root)[:limit]
        for split, limit in (("train", arguments.train), ("test", arguments.test))
    )
    settings = make_settings("default")
    with ProposalCache(arguments.folder / "proposals.sqlite", settings.proposer) as cache:
        run = Run(arguments.folder / "run", settings, cache, arguments.folder / "maps")
        folds, tested = _measured(run, train, test)
    console = Console()
    judged = MatchedDetections.merge(folds)
    fits = [
        _maps(MatchedDetections.merge(folds[:number] + folds[number + 1 :])) for number in range(len(folds))
    ]
    crossed = {
        name: np.concatenate(
            [fit[name](fold.scores, fold.labels) for fit, fold in zip(fits, folds, strict=True)]
        )
        for name in fits[0]
    }
    console.print(_errors(crossed, judged, "held-out training images, each fold by maps of the others"))
    fitted = {name: of_all(tested.scores, tested.labels) for name, of_all in _maps(judged).items()}
    console.print(_errors(fitted, tested, "test images"))
    calibration = fit_calibration(judged)
    assert calibration is not None, "some held-out detections are right"
    console.print(_thresholds(calibration, tested))
    rows = fitted[_KEPT] >= _SHOWN
    shown = {name: reliability(fitted[name][rows], tested.correct[rows]) for name in ("plain sigmoid", _KEPT)}
    plot_reliability(arguments.folder / "reliability.png", shown)


def _maps(held_out: MatchedDetections) -> dict[str, "AllMaps"]:
    """Maps of each kind, fitted on some detections."""
    knots = {f"{number} knots": tuple((np.arange(number) + 1) / (number + 1)) for number in (1, 2, 3, 4, 5)}
    assert knots[_KEPT] == KNOT_QUANTILES
    return {
        "plain sigmoid": _by_class(held_out, _no_fit),
        "Platt": _logistic(held_out, ()),
        "isotonic": _by_class(held_out, _isotonic),
        **{name: _logistic(held_out, quantiles) for name, quantiles in knots.items()},
    }


def _measured(run: Run, train: Dataset, test: Dataset) -> tuple[list[MatchedDetections], MatchedDetections]:
    """Detections in each fold of held-out training images, and in test images; prints the minutes."""
    data = TrainingData(train, run.settings.proposer, run.cache, run.maps, run.map_bytes)
    settings = run.settings
    folds = held_out_folds(len(train), settings.calibration, settings.training.seed)
    detector, fold_detectors = kept_detectors(
        run.folder, train.digest(), lambda work: _train(data, run, work, folds)
    )
    parts = [
        _kept(run.folder / f"fold-{number}.npz", fold_detector, data, fold)
        for number, (fold_detector, fold) in enumerate(zip(fold_detectors, folds, strict=True))
    ]
    tested = _kept(run.folder / "test.npz", detector, replace(data, dataset=test), range(len(test)))
    return parts, tested


def _train(data: TrainingData, run: Run, work: Path, folds: Sequence[Sequence[int]]) -> Trained:
    """Trains the detectors; prints the minutes of each stage."""
    stages: dict[str, float] = {}

    def progress(stage: str, done: int, total: int) -> None:
        name = f"{stage}, step {done} of {total}" if stage == "final training" else stage
        stages.setdefault(name, time.monotonic())

    trained = train_with_folds(data, run.build(), run.settings, work, progress, folds)
    ends = [*list(stages.values())[1:], time.monotonic()]
    for (stage, start), end in zip(stages.items(), ends, strict=True):
        print(f"training, {stage}: {(end - start) / 60:.1f} min")
    return trained


def _kept(file: Path, detector: Detector, data: TrainingData, indices: Sequence[int]) -> MatchedDetections:
    if not file.exists():
        start = time.monotonic()
        np.savez(file, **vars(detect_held_out(detector, data, indices, quiet)))
        print(f"{file.stem}: {len(indices)} images in {(time.monotonic() - start) / 60:.1f} min")
    with np.load(file) as arrays:
        return MatchedDetections(**arrays)


AllMaps = Callable[[FloatArray, IntArray], Float64]


def _logistic(held_out: MatchedDetections, knot_quantiles: Sequence[float]) -> AllMaps:
    calibration = fit_calibration(held_out, knot_quantiles)
    assert calibration is not None, "some held-out detections are right"
    return lambda scores, labels: calibration.probabilities(scores, labels).astype(np.float64)


def _by_class(held_out: MatchedDetections, fit: Callable[[Float64, np.ndarray, Float64], Map]) -> AllMaps:
    """A map a class, each fitted with the weights of `fit_calibration`."""
    scores = held_out.scores.astype(np.float64)
    prior = PRIOR_OBJECTS / held_out.ground_truths.sum()
    maps = [
        fit(scores, held_out.correct, prior + (held_out.labels == label))
        for label in range(len(held_out.ground_truths))
    ]

    def probabilities(scores: FloatArray, labels: IntArray) -> Float64:
        values = np.zeros(len(scores))
        for label, of_class in enumerate(maps):
            values[labels == label] = of_class(scores[labels == label].astype(np.float64))
        return values

    return probabilities


def _no_fit(scores: Float64, correct: np.ndarray, weights: Float64) -> Map:
    return logistic


def _isotonic(scores: Float64, correct: np.ndarray, weights: Float64) -> Map:
    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, correct, weights)
    return lambda values: fitted.predict(values) if len(values) else values


def _errors(probabilities: dict[str, Float64], judged: MatchedDetections, title: str) -> Table:
    """The errors of each kind of map on some detections."""
    table = Table("map", "error, all", f"error, kept map >= {_SHOWN}", "log loss", "Brier", title=title)
    shown = probabilities[_KEPT] >= _SHOWN
    for name, values in probabilities.items():
        clipped = np.clip(values, 1e-4, 1 - 1e-4)
        loss = -np.mean(np.where(judged.correct, np.log(clipped), np.log(1 - clipped)))
        table.add_row(
            name,
            percent(reliability(values, judged.correct).error),
            percent(reliability(values[shown], judged.correct[shown]).error),
            f"{loss:.5f}",
            f"{np.mean((values - judged.correct) ** 2):.5f}",
        )
    return table


def _thresholds(calibration: Calibration, tested: MatchedDetections) -> Table:
    probabilities = calibration.probabilities(tested.scores, tested.labels)
    scored = replace(tested, scores=probabilities)
    single = max(
        ((threshold, working_point(scored, np.full(len(calibration.slopes), threshold))) for threshold in
         np.unique(probabilities.round(3))),
        key=lambda pair: pair[1].f1,
    )  # fmt: skip
    choices = {
        "default (f1)": working_point(scored, calibration.thresholds()),
        "precision:0.9": working_point(scored, calibration.thresholds("precision:0.9")),
        "precision:0.75": working_point(scored, calibration.thresholds("precision:0.75")),
        "score -0.75, as before": working_point(tested, np.full(len(calibration.slopes), -0.75)),
        f"best single on the test images ({single[0]:.2f})": single[1],
        "best of each class on the test images": working_point(scored, _best_of_each(scored)),
    }
    table = Table("threshold", "detections", "precision", "recall", "F1", title="test images")
    for name, point in choices.items():
        table.add_row(
            name, str(point.detections), percent(point.precision), percent(point.recall), percent(point.f1)
        )
    return table


def _best_of_each(matched: MatchedDetections) -> Float64:
    """The threshold of each class that gives its best F1 on these very detections."""
    best = np.full(len(matched.ground_truths), np.inf)
    for label, objects in enumerate(matched.ground_truths):
        rows = np.flatnonzero(matched.labels == label)
        rows = rows[np.argsort(-matched.scores[rows], kind="stable")]
        right = np.cumsum(matched.correct[rows])
        if len(rows) and right[-1]:
            best[label] = matched.scores[rows][np.argmax(2 * right / (np.arange(1, len(rows) + 1) + objects))]
    return best


if __name__ == "__main__":
    main()
