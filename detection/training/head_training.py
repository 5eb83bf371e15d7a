"""Training of heads on a detector's network: fine-tuned layers with softmax, and SVMs on these layers."""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from sppnet.common.distributed import ALONE, Group
from sppnet.common.errors import InputError
from sppnet.common.progress import Progress
from sppnet.common.resumable import CHECKPOINT_SECONDS
from sppnet.detection.detector import Detector
from sppnet.detection.training.finetuning import finetune
from sppnet.detection.training.layered_extractor import LayeredExtractor
from sppnet.detection.training.presets import RunSettings
from sppnet.detection.training.svm_training import train_with_folds
from sppnet.detection.training.training_images import TrainingData
from sppnet.svm import TARGET_NORM

_LAYERS = {"fc6": 1, "fc7": 2}


def finetune_detector(
    data: TrainingData,
    base: Detector,
    settings: RunSettings,
    work: Path,
    progress: Progress,
    group: Group = ALONE,
) -> Detector:
    """Trains a detector with fine-tuned layers and their softmax; the rest is that of ``base``.

    Its scores are the logarithms of the odds of a class, so that 0 is a probability of one half.

    Args:
        data: the images to train on.
        base: trained on pooled vectors; gives the network with its feature levels joined, the norm factor
            and the box regressors.
        settings: of the run.
        work: folder for checkpoints and samples; see `finetune`.
        progress: called with a stage's name, how much is done, and how much there is.
        group: the processes of this training.

    Raises:
        InputError: see `finetune`.

    Example:
        >>> tuned = finetune_detector(data, base, settings, Path("work"), print)  # doctest: +SKIP
    """
    # SVMs have vectors of a mean length of 20; the layers' initialisation wants numbers of about 1.
    factor = base.head.norm_factor * math.sqrt(base.extractor.length) / TARGET_NORM
    tuned = finetune(data, base.extractor, factor, settings, work, progress, group)
    probability = settings.finetuning.min_probability
    origin = {
        **base.origin,
        "settings": asdict(settings),
        "finetuning": {"chosen_step": tuned.step, "history": [asdict(score) for score in tuned.history]},
    }
    return replace(
        base,
        head=tuned.head,
        settings=replace(settings.detection, min_score=math.log(probability / (1 - probability))),
        origin=origin,
        layers=tuned.layers,
        calibration=None,
    )


def train_layer_svms(
    data: TrainingData,
    tuned: Detector,
    head: str,
    settings: RunSettings,
    work: Path,
    progress: Progress,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Detector:
    """Trains SVMs on fc6 or fc7, mined as those on pooled vectors; box regression stays on the latter.

    Args:
        data: the images to train on.
        tuned: from `finetune_detector`.
        head: ``fc6`` or ``fc7``.
        settings: of the run.
        work: folder for checkpoints and samples; see `train_detector`.
        progress: called with a stage's name, how much is done, and how much there is.
        checkpoint_seconds: time between two snapshots.

    Raises:
        InputError: see `train_detector`; or ``tuned`` has no such layer.

    Example:
        >>> detector = train_layer_svms(data, tuned, "fc6", settings, Path("work"), print)  # doctest: +SKIP
    """
    return train_layer_svms_with_folds(data, tuned, head, settings, work, progress, (), checkpoint_seconds)[0]


def train_layer_svms_with_folds(
    data: TrainingData,
    tuned: Detector,
    head: str,
    settings: RunSettings,
    work: Path,
    progress: Progress,
    folds: Sequence[Sequence[int]],
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> tuple[Detector, list[Detector]]:
    """Trains SVMs on fc6 or fc7, and others that judge parts of the images as if they were new.

    Args:
        data: the images to train on.
        tuned: from `finetune_detector`.
        head: ``fc6`` or ``fc7``.
        settings: of the run.
        work: folder for checkpoints and samples; see `train_detector`.
        progress: called with a stage's name, how much is done, and how much there is.
        folds: the indices of the images of each part; see `train_with_folds`.
        checkpoint_seconds: time between two snapshots.

    Raises:
        InputError: see `train_layer_svms`.
    """
    if tuned.layers is None or head not in _LAYERS:
        raise InputError(f"head {head!r}: the detector has no such layer; fine-tune it first")
    layers = tuned.layers.first(_LAYERS[head])
    alone = replace(settings, training=replace(settings.training, regression=False))
    extractor = LayeredExtractor(tuned.extractor, layers)
    trained, fold_detectors = train_with_folds(
        data, extractor, alone, work, progress, folds, False, checkpoint_seconds
    )
    detector = replace(
        tuned,
        head=trained.head,
        settings=settings.detection,
        origin={**tuned.origin, "head": head},
        layers=layers,
        calibration=None,
    )
    return detector, [replace(detector, head=fold_detector.head) for fold_detector in fold_detectors]
