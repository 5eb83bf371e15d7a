"""What goes through a whole data set."""

from sppnet.detection.training.heads import HEADS, finetune_detector, train_layer_svms
from sppnet.detection.training.svm_training import TrainingData, train_detector

__all__ = [
    "HEADS",
    "TrainingData",
    "finetune_detector",
    "train_detector",
    "train_layer_svms",
]
