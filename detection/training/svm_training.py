"""Training of SVMs and box regressors on pooled windows, network fixed: images in, a detector out.

Two passes over the images, after a look at some of them for the mean feature norm. The first computes the
feature maps, which the map store keeps for the second, and gathers the ground truth windows. The second mines
hard negatives and samples windows for the regressors.
"""

import logging
import os
import time
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sppnet.common.arrays import BoolArray, FloatArray
from sppnet.common.checkpoint import Checkpoint, disk_errors_named, part
from sppnet.common.errors import InputError
from sppnet.common.memory import give_back
from sppnet.common.prefetch import prefetch
from sppnet.data.images import read_image
from sppnet.data.types import Dataset, Example
from sppnet.detection.backbones import fit_feature_levels, weights_digest
from sppnet.detection.backbones.kept_feature_levels import set_kept_feature_levels
from sppnet.detection.detector import Detector
from sppnet.detection.features.extractor import FeatureExtractor, PooledFeatures
from sppnet.detection.features.map_store import MapStore
from sppnet.detection.training.presets import RunSettings, TrainingSettings
from sppnet.eval.voc import box_iou
from sppnet.proposals import Engine, ProposalCache, image_key, propose_cached, propose_example
from sppnet.svm import BoxRegressors, HardNegativeMiner, LinearSVMs, RegressionSampler, norm_factor

_LOG = logging.getLogger(__name__)
# Of the memory setting, this much is left to everything but the store of negatives: the interpreter and the
# network, and the vectors of the images at hand. Measured on VOC2007: 2.1 GB in all with EfficientNet-Lite0
# (21,600 numbers a window) from stored maps, 2.2 with AlexNet (12,800) where convolution runs here, too.
_BASE_MEMORY = 1.85e9
# And this for each further scale: AlexNet's five took 2.5 GB beside vectors and negatives where convolution
# ran here, 1.2 GB from stored maps.
_SCALE_MEMORY = 0.2e9
# Vectors of the windows of so many images are in memory at a time: read ahead, scored, copied.
_IMAGES_AT_HAND = 4
_MIN_WINDOWS = 2000
_CHECKPOINT_SECONDS = 240.0

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The images of training, with where their windows and maps are kept.

    Attributes:
        dataset: examples with ground truth.
        engine: proposes windows.
        cache: of its windows; filled where they are missing.
        maps: folder for stored feature maps.
        map_bytes: bound on that folder.
    """

    dataset: Dataset
    engine: Engine
    cache: ProposalCache
    maps: Path
    map_bytes: int


@dataclass(frozen=True, eq=False)
class _TrainingImage:
    index: int
    example: Example
    boxes: FloatArray  # Ground truth first, then proposals.
    pooled: PooledFeatures


def train_detector(
    data: TrainingData,
    extractor: FeatureExtractor,
    settings: RunSettings,
    work: Path,
    progress: Progress,
    fit_feature_levels_first: bool = True,
) -> Detector:
    """Trains one SVM and one box regressor a class.

    It can be stopped at any moment: run again with the same arguments, it goes on from a checkpoint that is
    at most four minutes old.

    Args:
        data: what to train on.
        extractor: the network, whose taps are fitted here, and pooling.
        settings: of the run.
        work: folder for checkpoints and samples; the caller's to remove once the detector is saved.
        progress: called with a stage's name, images done, images in all.
        fit_feature_levels_first: whether the network's taps are fitted here; else they have been.

    Raises:
        InputError: an image cannot be read, there is no object to train on, or a disk is full.
    """
    dataset = data.dataset
    if not any(_positive(example, settings.training).any() for example in dataset):
        raise InputError(f"{dataset.name} {dataset.split}: no annotated object to train on")
    try:
        with disk_errors_named(work):
            work.mkdir(parents=True, exist_ok=True)
            if fit_feature_levels_first:
                _set_feature_levels(dataset, extractor, settings, work, progress)
            store = MapStore(data.maps, extractor, data.map_bytes)
            svms, regressors = _train(data, extractor, store, settings, work, progress)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{dataset.name} {dataset.split}: cannot be trained on ({error})") from error
    origin = {
        "dataset": dataset.name,
        "split": dataset.split,
        "images": len(dataset),
        "dataset_digest": dataset.digest(),
        "weights_digest": weights_digest(extractor.network),
        "settings": asdict(settings),
    }
    return Detector(dataset.classes, extractor, svms, regressors, settings.detection, data.engine, origin)


def _set_feature_levels(
    dataset: Dataset, extractor: FeatureExtractor, settings: RunSettings, work: Path, progress: Progress
) -> None:
    """Gives the network the constants that join its maps, where it has more than one, or reduce them (PCA).

    They are kept in ``work`` for when training goes on: the checkpoint and all stored maps are named by a
    digest of them.
    """
    network, training = extractor.network, settings.training
    components = settings.network.pca or None
    if len(network.feature_levels.level_channels) == 1 and components is None:
        return
    purpose = {
        "taps of": weights_digest(network),
        "settings": _without_finetuning(settings),
        "dataset": dataset.digest(),
    }
    count = min(training.feature_level_images, len(dataset))
    chosen = np.sort(np.random.default_rng(training.seed).choice(len(dataset), count, replace=False))

    def level_maps() -> Iterator[list[Tensor]]:
        for done, index in enumerate(chosen):
            progress("taps", done, count)
            for scaled, _ in extractor.scaled(read_image(dataset[index].path)):
                yield network.level_maps(scaled)
        progress("taps", count, count)

    set_kept_feature_levels(
        network, Checkpoint(work, purpose), lambda: fit_feature_levels(level_maps(), components), components
    )


def _train(
    data: TrainingData,
    extractor: FeatureExtractor,
    store: MapStore,
    settings: RunSettings,
    work: Path,
    progress: Progress,
) -> tuple[LinearSVMs, BoxRegressors | None]:
    dataset, training = data.dataset, settings.training
    classes, threads = len(dataset.classes), os.cpu_count() or 1
    windows = max(_MIN_WINDOWS, *(len(propose_example(one, data.engine, data.cache)) for one in dataset))
    vectors = 4 * extractor.pooled_length * _IMAGES_AT_HAND * windows
    base = _BASE_MEMORY + _SCALE_MEMORY * (len(extractor.settings.scales) - 1)
    memory = max(0, int(training.memory_gb * 1e9 - base - vectors))
    purpose = {
        "settings": _without_finetuning(settings), "layers": extractor.layers_digest,
        "maps": store.folder.name, "dataset": dataset.digest(),
    }  # fmt: skip
    checkpoint = Checkpoint(work, purpose)
    state = checkpoint.load()
    if state is None:
        scale = norm_factor(_mean_norm(data, extractor, store, training, progress))
        miner = HardNegativeMiner(classes, extractor.length, settings.mining, scale, memory, threads)
        # Before the network has seen all images.
        miner.check_room(sum(int(_positive(one, training).sum()) for one in dataset))
        _add_positives(miner, data, extractor, store, training, progress)
        give_back()
        sampler = RegressionSampler(classes, extractor.length, settings.regression, scale, work / "samples")
        first = 0
    else:
        scale, first = float(state["scale"]), int(state["next"])
        miner = HardNegativeMiner.from_state(part(state, "miner."), settings.mining, scale, memory, threads)
        sampler = RegressionSampler.from_state(
            part(state, "sampler."), extractor.length, settings.regression, scale, work / "samples"
        )
        del state  # Its memory maps would keep the files of the old checkpoint.

    saved = time.monotonic()
    progress("mining", first, len(dataset))
    rest = range(first, len(dataset))
    for image in _windows(data, extractor, store, rest, with_proposals=rest):
        ground_truth, labels = image.example.boxes, image.example.labels
        overlap = box_iou(image.boxes, ground_truth).astype(np.float32)
        by_class = np.zeros((len(image.boxes), classes), np.float32)
        np.maximum.at(by_class.T, labels, overlap.T)
        # Windows that share their cells count as one (released code), a negative if any of them is.
        distinct, rows = image.pooled.features, image.pooled.rows
        least = np.full((len(distinct), classes), np.inf, np.float32)
        np.minimum.at(least, rows, by_class)
        representative = np.zeros((len(distinct), 4), np.float32)
        representative[rows] = image.boxes
        try:
            miner.add_image(image.index, distinct, least, representative)
            if training.regression and len(ground_truth):
                wanted = np.flatnonzero(_positive(image.example, training))
                best = overlap[:, wanted].max(axis=1, initial=0.0)
                near = np.flatnonzero(best >= settings.regression.min_iou)
                sampler.add_image(
                    image.index, distinct[rows[near]], image.boxes[near], ground_truth[wanted], labels[wanted]
                )
        except ValueError as error:
            raise InputError(f"{image.example.path}: cannot be trained on ({error})") from error
        progress("mining", image.index + 1, len(dataset))
        if time.monotonic() - saved > _CHECKPOINT_SECONDS:
            checkpoint.save(
                {f"miner.{name}": array for name, array in miner.state().items()}
                | {f"sampler.{name}": array for name, array in sampler.state().items()}
                | {"scale": np.array(scale), "next": np.array(image.index + 1)}
            )
            saved = time.monotonic()
    progress("final training", 0, 2)
    svms = miner.finish()
    _LOG.info("mining: %s", miner.statistics())
    del miner
    progress("final training", 1, 2)
    regressors = sampler.finish() if training.regression else None
    progress("final training", 2, 2)
    return svms, regressors


def _without_finetuning(settings: RunSettings) -> dict[str, Any]:
    """What SVMs depend on of the settings; of fine-tuning, they do on its result alone."""
    return {name: value for name, value in asdict(settings).items() if name != "finetuning"}


def _positive(example: Example, training: TrainingSettings) -> BoolArray:
    """bool (N,): the objects that are positives."""
    return np.logical_or(training.difficult_positives, ~example.difficult)


def _mean_norm(
    data: TrainingData,
    extractor: FeatureExtractor,
    store: MapStore,
    training: TrainingSettings,
    progress: Progress,
) -> float:
    """The mean norm of sampled windows, ground truth and proposals, of sampled images."""
    rng = np.random.default_rng(training.seed)
    count = len(data.dataset)
    chosen = sorted(rng.choice(count, min(training.norm_images, count), replace=False).tolist())
    norms = []
    for done, image in enumerate(_windows(data, extractor, store, chosen, with_proposals=chosen)):
        progress("feature norm", done, len(chosen))
        rows = rng.permutation(image.pooled.rows)[: training.norm_proposals]
        norms.append(np.linalg.norm(image.pooled.features[rows], axis=1))
    progress("feature norm", len(chosen), len(chosen))
    return float(np.concatenate(norms).mean())


def _add_positives(
    miner: HardNegativeMiner,
    data: TrainingData,
    extractor: FeatureExtractor,
    store: MapStore,
    training: TrainingSettings,
    progress: Progress,
) -> None:
    """Gives the miner the ground truth windows, image by image: it keeps a byte a number, not four."""
    count = len(data.dataset)
    for image in _windows(data, extractor, store, range(count), with_proposals=()):
        chosen = np.flatnonzero(_positive(image.example, training))
        features = image.pooled.features[image.pooled.rows[chosen]]
        try:
            miner.add_positives(features, image.example.labels[chosen])
        except ValueError as error:
            raise InputError(f"{image.example.path}: cannot be trained on ({error})") from error
        progress("convolution", image.index + 1, count)


def _windows(
    data: TrainingData,
    extractor: FeatureExtractor,
    store: MapStore,
    indices: Iterable[int],
    with_proposals: Container[int],
) -> Iterator[_TrainingImage]:
    """The pooled windows of some images, ground truth and proposals; the next image is prepared meanwhile.

    Images that are not in ``with_proposals`` have their ground truth windows only.
    """

    def prepare(index: int) -> _TrainingImage:
        example = data.dataset[index]
        key = image_key(example)
        maps = store.get(key.image_digest, lambda: extractor.maps(read_image(example.path)))
        boxes = example.boxes
        if index in with_proposals:
            proposals = propose_cached(key, lambda: read_image(example.path), data.engine, data.cache)
            boxes = np.concatenate([boxes, proposals])
        return _TrainingImage(index, example, boxes, extractor.pool(maps, boxes))

    yield from prefetch(prepare, indices, ahead=1)
