"""Scores the detections of a run."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sppnet.data.types import Dataset
from sppnet.detection.runs.detection_files import RunDetections
from sppnet.detection.runs.run import Run
from sppnet.eval import VOCResult, coco_metrics, evaluate_voc, plot_precision_recall, write_metrics


@dataclass(frozen=True, eq=False)
class RunScores:
    """The figures of a run.

    Attributes:
        voc: VOC's average precisions, after box regression.
        voc_proposed: the same with boxes as they were proposed; None where the run has none.
        coco: COCO's figures, after box regression.
    """

    voc: VOCResult
    voc_proposed: VOCResult | None
    coco: Mapping[str, float]


def score_run(run: Run, dataset: Dataset, detections: RunDetections, iou_threshold: float = 0.5) -> RunScores:
    """Scores detections; writes the run's ``metrics.json`` and ``precision_recall.png``.

    Args:
        run: gets the files.
        dataset: with ground truth.
        detections: of its images.
        iou_threshold: the least IoU of a match.
    """
    scores = RunScores(
        evaluate_voc(dataset, detections.regressed, iou_threshold),
        None if detections.proposed is None else evaluate_voc(dataset, detections.proposed, iou_threshold),
        coco_metrics(dataset, detections.regressed),
    )
    about: dict[str, Any] = {
        "dataset": dataset.name,
        "split": dataset.split,
        "images": len(dataset),
        "run": tomllib.loads((run.folder / "settings.toml").read_text(encoding="utf-8")),
    }
    if scores.voc_proposed is not None:
        means = {"map_11point": scores.voc_proposed.map_11point, "map_area": scores.voc_proposed.map_area}
        about["without_regression"] = {name: None if np.isnan(mean) else mean for name, mean in means.items()}
    write_metrics(run.result_path("metrics", ".json"), scores.voc, scores.coco, about)
    plot_precision_recall(run.result_path("precision_recall", ".png"), scores.voc)
    return scores
