"""All settings of a run, and the named presets; each constant's source stands in its dataclass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from sppnet.common.errors import InputError
from sppnet.common.settings import changed, override
from sppnet.detection.features.extractor import FeatureSettings
from sppnet.detection.nms import DetectionSettings
from sppnet.detection.training.finetuning_settings import (
    PAPER_FINETUNING,
    RELEASED_FINETUNING,
    FineTuningSettings,
)
from sppnet.proposals import Engine, ImportedBoxes, OpenCVSelectiveSearch, SelectiveSearch
from sppnet.svm import (
    PAPER_MINING,
    RCNN_REGRESSION,
    RELEASED_MINING,
    RELEASED_REGRESSION,
    MiningSettings,
    RegressionSettings,
)

# About 2 GB of it and more go to all but the negatives (`sppnet.detection.training.svm_training`).
MIN_MEMORY_GB = 2.5


@dataclass(frozen=True)
class NetworkSettings:
    """Which network, and its weights.

    Attributes:
        name: zf5, alexnet, vgg16, efficientnet_lite0, efficientnet_lite2, or any timm model.
        weights: a file, ``random``, or empty for the network's own.
        feature_levels: strides of the maps of a timm model to join; empty for its default, 16 and 32.
        pca: reduce the map to this many channels, learned on training maps; 0 keeps all.
        seed: of random weights.
    """

    name: str = "efficientnet_lite0"
    weights: str = ""
    feature_levels: tuple[int, ...] = ()
    pca: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pca < 0 or any(type(level) is not int or level < 1 for level in self.feature_levels):
            raise InputError(f"{self}: pca must not be negative, and taps are strides in pixels")


@dataclass(frozen=True)
class TrainingSettings:
    """What training takes, beside mining and regression.

    Attributes:
        difficult_positives: whether difficult objects are positives. SPP-net was trained without them (Fast
            R-CNN, table 1); its released script takes them. Windows on them are never negatives.
        norm_images, norm_proposals: the mean feature norm is taken over so many windows of so many images
            (released code: 200 of 200).
        feature_level_images: taps and PCA are fitted on so many images; our own.
        regression: whether box regressors are trained.
        memory_gb: what training may take at its peak, in 10^9 bytes.
        seed: of all random choices of training.
    """

    difficult_positives: bool = False
    norm_images: int = 200
    norm_proposals: int = 200
    feature_level_images: int = 100
    regression: bool = True
    memory_gb: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.norm_images, self.norm_proposals, self.feature_level_images) < 1:
            raise InputError("norm_images, norm_proposals and feature_level_images must be at least 1")
        if self.memory_gb < MIN_MEMORY_GB:
            raise InputError(f"memory_gb is {self.memory_gb}; training needs at least {MIN_MEMORY_GB}")


@dataclass(frozen=True)
class RunSettings:
    """Everything that a run's figures depend on, besides the images.

    Attributes:
        network: and its weights.
        boxes: the name of imported boxes to use; empty for Selective Search.
        engine: of Selective Search: ``own``, or ``opencv`` for OpenCV's.
        proposals: settings of our own Selective Search.
        opencv: settings of OpenCV's.
        features: windows to vectors.
        mining: of the SVMs.
        regression: of boxes.
        detection: thresholds.
        training: the rest of training.
        finetuning: of the fully connected layers.
    """

    network: NetworkSettings = field(default_factory=NetworkSettings)
    boxes: str = ""
    engine: Literal["own", "opencv"] = "own"
    proposals: SelectiveSearch = field(default_factory=SelectiveSearch)
    opencv: OpenCVSelectiveSearch = field(default_factory=OpenCVSelectiveSearch)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    mining: MiningSettings = field(default_factory=MiningSettings)
    regression: RegressionSettings = field(default_factory=RegressionSettings)
    detection: DetectionSettings = field(default_factory=DetectionSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    finetuning: FineTuningSettings = field(default_factory=FineTuningSettings)

    def __post_init__(self) -> None:
        if self.engine not in ("own", "opencv"):
            raise InputError(f"engine {self.engine!r}: choose own or opencv")

    @property
    def proposer(self) -> Engine:
        """What proposes windows."""
        if self.boxes:
            return ImportedBoxes(self.boxes)
        return self.opencv if self.engine == "opencv" else self.proposals


_PAPER = RunSettings(mining=PAPER_MINING, finetuning=PAPER_FINETUNING)
_RELEASED = RunSettings(
    mining=RELEASED_MINING,
    regression=RELEASED_REGRESSION,
    features=FeatureSettings(projection="released", scale_rule="released"),
    training=TrainingSettings(difficult_positives=True),
    finetuning=RELEASED_FINETUNING,
)

PRESETS = {
    # One scale that suits EfficientNet-Lite0 on a CPU (about 0.2 s an image), and a fine-tuning that takes
    # minutes, not days; otherwise the paper.
    "default": replace(_PAPER, features=FeatureSettings(scales=(576,)), finetuning=FineTuningSettings()),
    # Paper §4.2: one scale.
    "paper-1scale": _PAPER,
    # The same with R-CNN's box regression, to which the paper refers.
    "paper-1scale-rcnn-regression": replace(_PAPER, regression=RCNN_REGRESSION),
    # Paper §4.1: five scales.
    "paper-5scale": replace(_PAPER, features=FeatureSettings(scales=(480, 576, 688, 864, 1200))),
    # R-CNN (reference for `sppnet compare`): each window on its own; its mining and regression.
    "rcnn": RunSettings(
        mining=RELEASED_MINING,
        regression=RCNN_REGRESSION,
        features=FeatureSettings(mode="rcnn", levels=(6,)),
    ),
    # Released code, which has 874 for 864 (see DIFFERENCES.md).
    "released-1scale": _RELEASED,
    "released-5scale": replace(
        _RELEASED, features=replace(_RELEASED.features, scales=(480, 576, 688, 874, 1200))
    ),
}


def make_settings(
    preset: str,
    config: Path | None = None,
    changes: Sequence[str] = (),
    network: Mapping[str, str] | None = None,
) -> RunSettings:
    """A preset, overridden by a TOML file, overridden by single changes.

    Args:
        preset: a key of `PRESETS`.
        config: TOML with the tables and keys of `RunSettings`; any subset.
        changes: TOML lines such as ``features.scales = [480, 576]``.
        network: fields of `NetworkSettings` that override all of these.

    Raises:
        InputError: an unknown preset or key (the nearest is named), TOML that cannot be read, a wrong value.
    """
    if preset not in PRESETS:
        nearest = get_close_matches(preset, PRESETS, 1, cutoff=0)[0]
        raise InputError(f"no preset {preset!r}; did you mean {nearest!r}? There are {', '.join(PRESETS)}")
    settings = changed(PRESETS[preset], config, changes)
    return override(settings, {"network": network or {}}, "network")
