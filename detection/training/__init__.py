"""What goes through a whole data set."""

from detection.training.detector_training import TrainingData, train_detector
from detection.training.distributed import ALONE, Group, join_group
from detection.training.heads import HEADS, finetune_detector, train_layer_svms
from detection.training.prefetch import prefetch

__all__ = [
    "ALONE",
    "HEADS",
    "Group",
    "TrainingData",
    "finetune_detector",
    "join_group",
    "prefetch",
    "train_detector",
    "train_layer_svms",
]
