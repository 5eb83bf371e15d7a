"""Scores the detections of a run."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from sppnet.common.files import write_json
from sppnet.common.parsing import read_toml
from sppnet.common.text import percent
from sppnet.data.types import Dataset
from sppnet.detection.calibration import Calibration, logistic
from sppnet.detection.model_files import read_calibration
from sppnet.detection.runs.detection_files import RunDetections
from sppnet.detection.runs.run import Run
from sppnet.eval import (
    MatchedDetections,
    Reliability,
    VOCResult,
    WorkingPoint,
    coco_metrics,
    evaluate_voc,
    match_detections,
    metrics_dict,
    plot_precision_recall,
    plot_reliability,
    reliability,
    working_point,
)

# Calibration errors are of detections that are at least so probable.
_JUDGED = 0.05


@dataclass(frozen=True, eq=False)
class CalibrationScores:
    """How far the probabilities of a run's detections can be trusted, and what its thresholds give.

    Attributes:
        held_out: precision and recall at the thresholds of the best F1, on held-out training images.
        test: the same on the images that were detected in.
        sigmoid: probabilities without calibration, 1 / (1 + exp(-score)), of the same detections as
            ``calibrated``.
        calibrated: probabilities of the calibration, where they are at least 0.05: of the many detections
            below that hardly any is right, and any map that says so would make the error small.
    """

    held_out: WorkingPoint
    test: WorkingPoint
    sigmoid: Reliability
    calibrated: Reliability

    def __str__(self) -> str:
        return (
            f"at the default thresholds: precision {percent(self.test.precision)}, recall "
            f"{percent(self.test.recall)} (held-out training images: {percent(self.held_out.precision)}, "
            f"{percent(self.held_out.recall)}); calibration error {percent(self.calibrated.error)}, "
            f"of a plain sigmoid {percent(self.sigmoid.error)}"
        )

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON holds them; None for NaN."""
        points = {"held_out": self.held_out, "test": self.test}
        figures: dict[str, Any] = {
            name: asdict(point) | {key: _number(getattr(point, key)) for key in ("precision", "recall", "f1")}
            for name, point in points.items()
        }
        errors = {"sigmoid": self.sigmoid.error, "calibrated": self.calibrated.error}
        return figures | {
            "expected_calibration_error": {name: _number(error) for name, error in errors.items()}
        }


@dataclass(frozen=True, eq=False)
class RunScores:
    """The figures of a run.

    Attributes:
        voc: VOC's average precisions, after box regression.
        voc_proposed: the same with boxes as they were proposed; None where the run has none.
        coco: COCO's figures, after box regression; None if they were not asked for.
        calibration: of the run's probabilities and thresholds; None where its detector has no calibration, or
            where there is nothing to score with.
    """

    voc: VOCResult
    voc_proposed: VOCResult | None
    coco: Mapping[str, float] | None
    calibration: CalibrationScores | None = None


def score_run(
    run: Run,
    dataset: Dataset,
    detections: RunDetections,
    iou_threshold: float = 0.5,
    *,
    with_coco: bool = True,
) -> RunScores:
    """Scores detections; writes ``metrics.json``, ``precision_recall.png`` and ``reliability.png``.

    Args:
        run: gets the files.
        dataset: with ground truth.
        detections: of its images.
        iou_threshold: the least IoU of a match.
        with_coco: whether COCO's figures are computed, which takes most of the time.
    """
    calibration = read_calibration(run.model)
    voc = evaluate_voc(dataset, detections.regressed, iou_threshold)
    scores = RunScores(
        voc,
        None if detections.proposed is None else evaluate_voc(dataset, detections.proposed, iou_threshold),
        coco_metrics(dataset, detections.regressed) if with_coco else None,
        None
        if calibration is None or not voc.counted_classes
        else score_calibration(calibration, match_detections(dataset, detections.regressed, iou_threshold)),
    )
    about: dict[str, Any] = {
        "dataset": dataset.name,
        "split": dataset.split,
        "images": len(dataset),
        "run": read_toml(run.folder / "settings.toml", "the run's settings"),
    }
    if scores.voc_proposed is not None:
        means = {"map_11point": scores.voc_proposed.map_11point, "map_area": scores.voc_proposed.map_area}
        about["without_regression"] = {name: None if np.isnan(mean) else mean for name, mean in means.items()}
    metrics = metrics_dict(scores.voc, scores.coco, about)
    plot_precision_recall(run.result_path("precision_recall", ".png"), scores.voc)
    if scores.calibration is not None:
        metrics["calibration"] = scores.calibration.as_dict()
        lines = {"plain sigmoid": scores.calibration.sigmoid, "calibrated": scores.calibration.calibrated}
        plot_reliability(run.result_path("reliability", ".png"), lines)
    write_json(run.result_path("metrics", ".json"), metrics, indent=2)
    return scores


def score_calibration(calibration: Calibration, matched: MatchedDetections) -> CalibrationScores:
    """Scores a calibration on detections that it was not fitted on.

    Args:
        calibration: of the detector.
        matched: its detections, with their raw scores.
    """
    probabilities = calibration.probabilities(matched.scores, matched.labels)
    thresholds = calibration.thresholds("f1")
    sigmoid = logistic(matched.scores.astype(np.float64))
    judged = probabilities >= _JUDGED
    return CalibrationScores(
        working_point(calibration.held_out, thresholds),
        working_point(replace(matched, scores=probabilities), thresholds),
        reliability(sigmoid[judged], matched.correct[judged]),
        reliability(probabilities[judged], matched.correct[judged]),
    )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
