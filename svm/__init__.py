"""Linear SVMs on feature vectors, hard negative mining and box regression: arrays in, arrays out."""

from sppnet.svm.linear import TARGET_NORM, LinearSVMs, norm_factor
from sppnet.svm.mining import HardNegativeMiner
from sppnet.svm.mining_settings import PAPER_MINING, RELEASED_MINING, MiningSettings, MiningStatistics
from sppnet.svm.regression import (
    MAX_LOG_SCALE,
    RCNN_REGRESSION,
    RELEASED_REGRESSION,
    BoxRegressors,
    RegressionSettings,
    apply_deltas,
    encode_boxes,
)
from sppnet.svm.sampling import RegressionSampler
from sppnet.svm.solver import Problem, Solution, SolverSettings, train_svms

__all__ = [
    "MAX_LOG_SCALE",
    "PAPER_MINING",
    "RCNN_REGRESSION",
    "RELEASED_MINING",
    "RELEASED_REGRESSION",
    "TARGET_NORM",
    "BoxRegressors",
    "HardNegativeMiner",
    "LinearSVMs",
    "MiningSettings",
    "MiningStatistics",
    "Problem",
    "RegressionSampler",
    "RegressionSettings",
    "Solution",
    "SolverSettings",
    "apply_deltas",
    "encode_boxes",
    "norm_factor",
    "train_svms",
]
