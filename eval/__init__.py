"""Scores detections, classifications and proposals against ground truth; writes tables, plots and files."""

from sppnet.eval.boxes import box_iou
from sppnet.eval.calibration import (
    MatchedDetections,
    Reliability,
    WorkingPoint,
    match_detections,
    plot_reliability,
    reliability,
    working_point,
)
from sppnet.eval.classification import ClassificationResult, evaluate_classification
from sppnet.eval.classification_report import accuracy_table, plot_confusion, write_classification
from sppnet.eval.coco import coco_metrics
from sppnet.eval.detections import (
    read_voc_detections,
    write_coco_results,
    write_voc_detections,
)
from sppnet.eval.proposal_report import abo_table, plot_proposals, proposal_table, proposals_dict
from sppnet.eval.proposals import ProposalResult, evaluate_proposals
from sppnet.eval.report import (
    class_table,
    classification_dict,
    classification_table,
    metrics_dict,
    plot_precision_recall,
    write_metrics,
)
from sppnet.eval.voc import ClassResult, VOCResult, evaluate_voc
from sppnet.eval.voc_classification import (
    ImageClassificationResult,
    ImageClassResult,
    evaluate_voc_classification,
    image_labels,
)

__all__ = [
    "ClassResult",
    "ClassificationResult",
    "ImageClassResult",
    "ImageClassificationResult",
    "MatchedDetections",
    "ProposalResult",
    "Reliability",
    "VOCResult",
    "WorkingPoint",
    "abo_table",
    "accuracy_table",
    "box_iou",
    "class_table",
    "classification_dict",
    "classification_table",
    "coco_metrics",
    "evaluate_classification",
    "evaluate_proposals",
    "evaluate_voc",
    "evaluate_voc_classification",
    "image_labels",
    "match_detections",
    "metrics_dict",
    "plot_confusion",
    "plot_precision_recall",
    "plot_proposals",
    "plot_reliability",
    "proposal_table",
    "proposals_dict",
    "read_voc_detections",
    "reliability",
    "working_point",
    "write_classification",
    "write_coco_results",
    "write_metrics",
    "write_voc_detections",
]
