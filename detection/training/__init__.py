"""What goes through a whole data set."""

from detection.training.detector_training import TrainingData, train_detector
from detection.training.prefetch import prefetch

__all__ = ["TrainingData", "prefetch", "train_detector"]
