"""The settings of a run, and the named presets; each constant's source stands in its dataclass."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from sppnet.common.errors import InputError
from sppnet.common.settings import changed, check_choice, override
from sppnet.detection.detection_settings import DetectionSettings
from sppnet.detection.features.settings import FeatureSettings
from sppnet.detection.training.finetuning_settings import (
    PAPER_FINETUNING,
    RELEASED_FINETUNING,
    FineTuningSettings,
)
from sppnet.proposals import ImportedBoxes, OpenCVSelectiveSearch, SelectiveSearch
from sppnet.svm import (
    PAPER_MINING,
    RCNN_REGRESSION,
    RELEASED_MINING,
    RELEASED_REGRESSION,
    MiningSettings,
    RegressionSettings,
    SolverSettings,
)

# About 2 GB of it and more go to everything but the negatives (`sppnet.detection.training.svm_training`).
MIN_MEMORY_GB = 2.5

EngineName = Literal["own", "opencv"]


@dataclass(frozen=True)
class NetworkSettings:
    """The network and its weights.

    Attributes:
        name: zf5, alexnet, vgg16, efficientnet_lite0, efficientnet_lite2, or any timm model.
        weights: a file, ``random``, or empty for the network's own.
        feature_levels: strides of the maps of a timm model that are joined; empty: its default, 16 and 32.
        pca: channels that the map is reduced to by a principal component analysis of training maps; 0: all
            are kept.
        seed: of random weights.

    Raises:
        InputError: a value out of range.

    Example:
        >>> NetworkSettings("alexnet", "random").pca
        0
    """

    name: str = "efficientnet_lite0"
    weights: str = ""
    feature_levels: tuple[int, ...] = ()
    pca: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pca < 0 or any(type(level) is not int or level < 1 for level in self.feature_levels):
            raise InputError(f"{self}: pca must not be negative, and feature_levels are strides in pixels")


@dataclass(frozen=True)
class TrainingSettings:
    """The settings of training, beside those of mining and regression.

    Attributes:
        difficult_positives: whether difficult objects are positives. SPP-net was trained without them (Fast
            R-CNN, table 1); its released script takes them. Proposals on them are never negatives.
        mirrored_positives: whether the objects of mirrored images are positives, too. The papers' SVMs have
            none; see docs/figures.md ("From a few photos").
        cost_objects: the number of objects a class that ``mining.solver.cost`` is meant for. With N objects a
            class on average, C is the cost times the root of ``cost_objects / N``; 0: C does not depend on
            N. Our own.
        norm_images, norm_proposals: the mean feature norm is taken over so many regions of each of so many
            images (released code: 200 of 200).
        feature_level_images: the weights that join feature levels, and the PCA, are fitted on so many images;
            our own.
        regression: whether box regressors are trained.
        memory_gb: bound on the memory of training, in 10^9 bytes.
        seed: of all random choices of training.

    Raises:
        InputError: a value out of range.

    Example:
        >>> TrainingSettings(memory_gb=8).norm_images
        200
    """

    difficult_positives: bool = False
    mirrored_positives: bool = False
    cost_objects: int = 0
    norm_images: int = 200
    norm_proposals: int = 200
    feature_level_images: int = 100
    regression: bool = True
    memory_gb: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.norm_images, self.norm_proposals, self.feature_level_images) < 1:
            raise InputError("norm_images, norm_proposals and feature_level_images must be at least 1")
        if self.cost_objects < 0:
            raise InputError(f"cost_objects is {self.cost_objects}; it must not be negative")
        if self.memory_gb < MIN_MEMORY_GB:
            raise InputError(f"memory_gb is {self.memory_gb}; training needs at least {MIN_MEMORY_GB}")


@dataclass(frozen=True)
class CalibrationSettings:
    """The settings of calibration: probabilities and thresholds from held-out training images.

    The detector itself is trained on all images. Its SVMs are trained again without a part of them, which
    they then judge. SVMs on fc6 and fc7 and the softmax are calibrated on the images that fine-tuning holds
    out (``finetuning.validation``).

    Attributes:
        enabled: whether a detector is calibrated. Without it scores stay raw.
        folds: the images that are held out are divided into so many parts.
        images: at most so many training images are held out, in turn.

    Raises:
        InputError: a value out of range.

    Example:
        >>> CalibrationSettings(folds=5).images
        300
    """

    enabled: bool = True
    folds: int = 3
    images: int = 300

    def __post_init__(self) -> None:
        if self.folds < 2 or self.images < 1:
            raise InputError(f"{self}: folds must be at least 2 and images at least 1")


@dataclass(frozen=True)
class RunSettings:
    """Everything that a run's figures depend on, besides the images.

    Attributes:
        network: the network and its weights.
        boxes: the name of imported boxes to use; empty for Selective Search.
        engine: of Selective Search: ``own``, or ``opencv`` for OpenCV's.
        proposals: settings of our own Selective Search.
        opencv: settings of OpenCV's.
        features: how regions of an image become vectors.
        mining: of hard negatives, and the SVMs.
        regression: of boxes.
        detection: thresholds.
        training: the rest of training.
        finetuning: of the fully connected layers.
        calibration: of scores.

    Raises:
        InputError: an unknown engine.

    Example:
        >>> settings = RunSettings(network=NetworkSettings("alexnet"), engine="opencv")
        >>> settings.proposer.max_proposals, settings.detection.nms_iou
        (2000, 0.3)
    """

    network: NetworkSettings = field(default_factory=NetworkSettings)
    boxes: str = ""
    engine: EngineName = "own"
    proposals: SelectiveSearch = field(default_factory=SelectiveSearch)
    opencv: OpenCVSelectiveSearch = field(default_factory=OpenCVSelectiveSearch)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    mining: MiningSettings = field(default_factory=MiningSettings)
    regression: RegressionSettings = field(default_factory=RegressionSettings)
    detection: DetectionSettings = field(default_factory=DetectionSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    finetuning: FineTuningSettings = field(default_factory=FineTuningSettings)
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)

    def __post_init__(self) -> None:
        check_choice("engine", self.engine, EngineName)

    def without_calibration(self) -> dict[str, Any]:
        """The settings that heads depend on, as JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "calibration"}

    def without_finetuning(self) -> dict[str, Any]:
        """The settings that SVMs depend on, as JSON values; of fine-tuning only the weights count."""
        return {name: value for name, value in self.without_calibration().items() if name != "finetuning"}

    @property
    def proposer(self) -> ImportedBoxes | OpenCVSelectiveSearch | SelectiveSearch:
        """The engine that ``boxes`` and ``engine`` choose."""
        if self.boxes:
            return ImportedBoxes(self.boxes)
        return self.opencv if self.engine == "opencv" else self.proposals

    def with_max_proposals(self, count: int) -> "RunSettings":
        """The settings whose engine proposes at most ``count`` boxes an image, and never more than before.

        Args:
            count: the bound, at least 1.

        Raises:
            InputError: imported boxes, which have no bound.
        """
        engine = self.proposer
        if isinstance(engine, ImportedBoxes):
            raise InputError(f"boxes {self.boxes!r}: imported boxes have no bound; leave boxes out")
        bound = min(count, engine.max_proposals or count)
        if isinstance(engine, OpenCVSelectiveSearch):
            return replace(self, opencv=replace(engine, max_proposals=bound))
        return replace(self, proposals=replace(engine, max_proposals=bound))


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
    "default": replace(
        _PAPER,
        features=FeatureSettings(scales=(576,)),
        # Ten times the paper's C for 16 objects a class, less for more, and mirrored objects as positives:
        # chosen on held-out training images, see docs/figures.md ("From a few photos").
        mining=replace(PAPER_MINING, interim_tolerance=0.1, solver=SolverSettings(cost=1e-2)),
        # The mean norms of so many images differ by about 1 % from those of all.
        training=TrainingSettings(
            mirrored_positives=True, cost_objects=16, norm_images=50, feature_level_images=25
        ),
        finetuning=FineTuningSettings(),
    ),
    # Paper §4.2: one scale.
    "paper-1scale": _PAPER,
    # The same with R-CNN's box regression, to which the paper refers.
    "paper-1scale-rcnn-regression": replace(_PAPER, regression=RCNN_REGRESSION),
    # Paper §4.1: five scales.
    "paper-5scale": replace(_PAPER, features=FeatureSettings(scales=(480, 576, 688, 864, 1200))),
    # R-CNN (reference for `sppnet compare`): each region on its own; its mining and regression.
    "rcnn": RunSettings(
        mining=RELEASED_MINING,
        regression=RCNN_REGRESSION,
        features=FeatureSettings(mode="rcnn", levels=(6,)),
    ),
    # Released code, which has 874 for 864 (see docs/differences.md).
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

    Example:
        >>> make_settings("paper-5scale", changes=["features.scales = [480, 688]"]).features.scales
        (480, 688)
        >>> make_settings("papr-1scale")
        Traceback (most recent call last):
        ...
        sppnet.common.errors.InputError: no preset 'papr-1scale'; did you mean 'paper-1scale'? There are ...
    """
    if preset not in PRESETS:
        nearest = get_close_matches(preset, PRESETS, 1, cutoff=0)[0]
        raise InputError(f"no preset {preset!r}; did you mean {nearest!r}? There are {', '.join(PRESETS)}")
    settings = changed(PRESETS[preset], config, changes)
    return override(settings, {"network": network or {}}, "network")


def settings_by_name(settings: RunSettings, values: Mapping[str, Any]) -> RunSettings:
    """Settings overridden by values under short names.

    Args:
        settings: to start from.
        values: by the name of a setting (``scales``), where only one table has it; by that of a table, with
            its settings (``features={"scales": …}``); or by both (``"features.scales"``).

    Raises:
        InputError: a name that no table has (the nearest is named) or that several have, or a wrong value.

    Example:
        >>> settings_by_name(PRESETS["default"], {"scales": (480, 688)}).features.scales
        (480, 688)
    """
    tables = {table.name: getattr(settings, table.name) for table in fields(settings)}
    nested: dict[str, Any] = {}
    for name, value in values.items():
        table, _, key = name.partition(".")
        if not key and name not in tables:
            table, key = _table_of(name, tables), name
        part = {key: value} if key else value
        if isinstance(part, Mapping) and isinstance(nested.get(table, {}), dict):
            nested.setdefault(table, {}).update(part)
        elif table in nested:
            raise InputError(f"setting {table!r} is given as a table and as a value; give it once")
        else:
            nested[table] = part
    return override(settings, nested, "settings")


def _table_of(name: str, tables: Mapping[str, Any]) -> str:
    """The one table that has a setting of this name."""
    keys = {table: [key.name for key in fields(part)] for table, part in tables.items() if is_dataclass(part)}
    holders = [table for table, names in keys.items() if name in names]
    if len(holders) > 1:
        choices = " or ".join(f"{holder}={{{name!r}: …}}" for holder in holders)
        raise InputError(f"setting {name!r} is in several tables: give {choices}")
    if not holders:
        known = [*tables, *(key for names in keys.values() for key in names)]
        nearest = get_close_matches(name, known, 1, cutoff=0)[0]
        raise InputError(f"unknown setting {name!r}; did you mean {nearest!r}?")
    return holders[0]
