"""Trains a detector's heads: SVMs with mining, fine-tuned layers, box regression; presets.

Names are imported when they are first used, so that settings and presets can be read without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sppnet.detection.training.choices import HEADS as HEADS
    from sppnet.detection.training.choices import HeadName as HeadName
    from sppnet.detection.training.head_training import finetune_detector as finetune_detector
    from sppnet.detection.training.head_training import train_layer_svms as train_layer_svms
    from sppnet.detection.training.presets import PRESETS as PRESETS
    from sppnet.detection.training.presets import RunSettings as RunSettings
    from sppnet.detection.training.presets import make_settings as make_settings
    from sppnet.detection.training.svm_training import train_detector as train_detector
    from sppnet.detection.training.training_images import TrainingData as TrainingData

_MODULES = {
    "HEADS": "choices",
    "HeadName": "choices",
    "PRESETS": "presets",
    "RunSettings": "presets",
    "TrainingData": "training_images",
    "finetune_detector": "head_training",
    "make_settings": "presets",
    "train_detector": "svm_training",
    "train_layer_svms": "head_training",
}

__all__ = [
    "HEADS",
    "PRESETS",
    "HeadName",
    "RunSettings",
    "TrainingData",
    "finetune_detector",
    "make_settings",
    "train_detector",
    "train_layer_svms",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
