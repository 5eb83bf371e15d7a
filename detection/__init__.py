"""Networks, pooled windows, training, and the detector."""

from detection.detector import Detector
from detection.features import FeatureExtractor, FeatureSettings
from detection.networks import build_network
from detection.presets import PRESETS, RunSettings, make_settings
from detection.suppression import DetectionSettings
from detection.training import TrainingData, train_detector

__all__ = [
    "PRESETS",
    "DetectionSettings",
    "Detector",
    "FeatureExtractor",
    "FeatureSettings",
    "RunSettings",
    "TrainingData",
    "build_network",
    "make_settings",
    "train_detector",
]
