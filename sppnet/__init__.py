"""SPP-net object detection on a plain CPU.

    from sppnet import Detector, evaluate_voc, load_dataset

    train, test = load_dataset("my-data", "train"), load_dataset("my-data", "test")
    detector = Detector.fit(train)
    detector.save("model")
    detections = detector.predict(test)
    print(evaluate_voc(test, detections).map_11point)

Names are imported when they are first used, so that Selective Search or the evaluator alone load no torch.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

# PyTorch then asks Linux for huge pages for large tensors (others ignore it). Without them ZF-5, whose first
# maps are the largest, spends a quarter of its time on page faults. Read by PyTorch when it makes its first
# tensor, so set before anything else is imported.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

if TYPE_CHECKING:
    from sppnet.common.errors import InputError as InputError
    from sppnet.data import Dataset as Dataset
    from sppnet.data import Detections as Detections
    from sppnet.data import Example as Example
    from sppnet.data import load_dataset as load_dataset
    from sppnet.data import read_image as read_image
    from sppnet.detection.backbones import build_network as build_network
    from sppnet.detection.features.pooling import spatial_pyramid_pool as spatial_pyramid_pool
    from sppnet.detection.features.pyramid_layer import SpatialPyramidPooling as SpatialPyramidPooling
    from sppnet.detection.runs.estimator import Detector as Detector
    from sppnet.detection.training.presets import PRESETS as PRESETS
    from sppnet.detection.training.presets import make_settings as make_settings
    from sppnet.eval import coco_metrics as coco_metrics
    from sppnet.eval import evaluate_voc as evaluate_voc
    from sppnet.proposals import SelectiveSearch as SelectiveSearch

_MODULES = {
    "Dataset": "sppnet.data",
    "Detections": "sppnet.data",
    "Detector": "sppnet.detection.runs.estimator",
    "Example": "sppnet.data",
    "InputError": "sppnet.common.errors",
    "PRESETS": "sppnet.detection.training.presets",
    "SelectiveSearch": "sppnet.proposals",
    "SpatialPyramidPooling": "sppnet.detection.features.pyramid_layer",
    "build_network": "sppnet.detection.backbones",
    "coco_metrics": "sppnet.eval",
    "evaluate_voc": "sppnet.eval",
    "load_dataset": "sppnet.data",
    "make_settings": "sppnet.detection.training.presets",
    "read_image": "sppnet.data",
    "spatial_pyramid_pool": "sppnet.detection.features.pooling",
}

__all__ = [
    "PRESETS",
    "Dataset",
    "Detections",
    "Detector",
    "Example",
    "InputError",
    "SelectiveSearch",
    "SpatialPyramidPooling",
    "__version__",
    "build_network",
    "coco_metrics",
    "evaluate_voc",
    "load_dataset",
    "make_settings",
    "read_image",
    "spatial_pyramid_pool",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("sppnet")
    elif name in _MODULES:
        try:
            value = getattr(importlib.import_module(_MODULES[name]), name)
        except ModuleNotFoundError as error:
            from sppnet.common.packages import explain_missing

            explanation = explain_missing(error)
            if explanation is None:
                raise
            raise ImportError(f"sppnet.{name}: {explanation}") from error
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
