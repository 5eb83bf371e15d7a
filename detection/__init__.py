"""Networks, pooled windows, training, and the detector."""

import os

# PyTorch then asks Linux for huge pages for large tensors (others ignore it). Without them ZF-5, whose first
# maps are the largest, spends a quarter of its time on page faults. Read by PyTorch when it makes its first
# tensor, so set before anything else is imported.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

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
