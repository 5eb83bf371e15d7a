"""Detectors on a trained one's network: fine-tuned layers with their softmax, or SVMs on these layers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from sppnet.common.arrays import FloatArray, Image, IntArray
from sppnet.common.distributed import ALONE, Group
from sppnet.common.errors import InputError
from sppnet.detection.backbones import tensors_digest
from sppnet.detection.detector import Detector
from sppnet.detection.fc_layers import FullyConnected
from sppnet.detection.features.extractor import FeatureExtractor, FeatureMap, PooledFeatures
from sppnet.detection.training.finetuning import finetune
from sppnet.detection.training.presets import RunSettings
from sppnet.detection.training.svm_training import TrainingData, train_detector
from sppnet.svm import TARGET_NORM

Progress = Callable[[str, int, int], None]

# What scores windows: SVMs on pooled features or on a fully connected layer, or the fine-tuned softmax.
HEADS = ("pool5", "fc6", "fc7", "softmax")
_LAYERS = {"fc6": 1, "fc7": 2}


class LayeredExtractor(FeatureExtractor):
    """Windows to what fully connected layers make of the vectors that another extractor gives."""

    def __init__(self, extractor: FeatureExtractor, layers: FullyConnected) -> None:
        """``extractor``, and then the layers."""
        super().__init__(extractor.network, extractor.settings)
        self.stores_maps = extractor.stores_maps
        self._extractor = extractor
        self._layers = layers
        self.layers_digest = tensors_digest(layers.tensors())

    @property
    def length(self) -> int:
        """Numbers in a window's vector."""
        return self._layers.length

    @property
    def pooled_length(self) -> int:
        """See `FeatureExtractor.pooled_length`."""
        return self._extractor.pooled_length

    def maps(self, image: Image) -> list[FeatureMap]:
        """See `FeatureExtractor.maps`."""
        return self._extractor.maps(image)

    def pool(
        self, maps: Sequence[FeatureMap], boxes: FloatArray, scales: IntArray | None = None
    ) -> PooledFeatures:
        """See `FeatureExtractor.pool`."""
        pooled = self._extractor.pool(maps, boxes, scales)
        return PooledFeatures(self._layers(pooled.features), pooled.rows)


def finetune_detector(
    data: TrainingData,
    base: Detector,
    settings: RunSettings,
    work: Path,
    progress: Progress,
    group: Group = ALONE,
) -> Detector:
    """A detector with fine-tuned layers and their softmax; the rest is that of ``base``.

    Its scores are the logarithms of the odds of a class, so that 0 is a probability of one half.

    Args:
        data: what to train on.
        base: trained on pooled windows; gives the network with its taps, the scale, and the box regressors.
        settings: of the run.
        work: see `finetune`, as are the following.
        progress: see there.
        group: see there.

    Raises:
        InputError: see there.
    """
    # SVMs have vectors of a mean length of 20; the layers' initialisation wants numbers of about 1.
    scale = base.head.norm_factor * math.sqrt(base.extractor.length) / TARGET_NORM
    tuned = finetune(data, base.extractor, scale, settings, work, progress, group)
    probability = settings.finetuning.min_probability
    origin = base.origin | {
        "settings": asdict(settings),
        "finetuning": {"chosen_step": tuned.step, "history": [asdict(one) for one in tuned.history]},
    }
    return Detector(
        base.classes,
        base.extractor,
        tuned.head,
        base.regressors,
        replace(settings.detection, min_score=math.log(probability / (1 - probability))),
        base.engine,
        origin,
        tuned.layers,
    )


def train_layer_svms(
    data: TrainingData, tuned: Detector, head: str, settings: RunSettings, work: Path, progress: Progress
) -> Detector:
    """A detector with SVMs on fc6 or fc7, mined as those on pooled windows; box regression stays on these.

    Args:
        data: what to train on.
        tuned: from `finetune_detector`.
        head: ``fc6`` or ``fc7``.
        settings: of the run.
        work: see `train_detector`.
        progress: see there.

    Raises:
        InputError: see there; or ``tuned`` has no such layer.
    """
    if tuned.layers is None or head not in _LAYERS:
        raise InputError(f"head {head!r}: the detector has no such layer; fine-tune it first")
    layers = tuned.layers.first(_LAYERS[head])
    alone = replace(settings, training=replace(settings.training, regression=False))
    extractor = LayeredExtractor(tuned.extractor, layers)
    trained = train_detector(data, extractor, alone, work, progress, fit_feature_levels_first=False)
    return Detector(
        tuned.classes,
        tuned.extractor,
        trained.head,
        tuned.regressors,
        settings.detection,
        tuned.engine,
        tuned.origin | {"head": head},
        layers,
    )
