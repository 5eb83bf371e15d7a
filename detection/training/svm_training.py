"""Training of SVMs and box regressors on pooled vectors, the network fixed: images in, a detector out.

The images are passed twice, after a look at some of them for the mean feature norm. The first pass computes
the feature maps, which the map store keeps for the second, and gathers the vectors of ground truth. The
second mines hard negatives and samples regions for the regressors.
"""

import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sppnet.common.checkpoint import Checkpoint, disk_errors_named, part
from sppnet.common.cores import allowed_cores
from sppnet.common.errors import DamageError, InputError
from sppnet.common.memory import give_back
from sppnet.common.progress import Progress
from sppnet.common.resumable import CHECKPOINT_SECONDS, PeriodicCheckpoint
from sppnet.data.types import Dataset
from sppnet.detection.backbones import weights_digest
from sppnet.detection.detector import Detector
from sppnet.detection.features.extractor import Extractor, PreparedStore
from sppnet.detection.heads import SVMHead
from sppnet.detection.training.feature_level_fitting import join_feature_levels as fit_and_join
from sppnet.detection.training.positives import objects_by_class, positive_objects
from sppnet.detection.training.presets import RunSettings
from sppnet.detection.training.training_images import (
    TrainingData,
    TrainingImage,
    training_images,
)
from sppnet.eval.boxes import box_iou
from sppnet.proposals import propose_example
from sppnet.svm import BoxRegressors, HardNegativeMiner, MiningSettings, RegressionSampler, norm_factor

_LOG = logging.getLogger(__name__)
# Of the memory setting, this much is left to everything but the store of negatives: the interpreter and the
# network, and the vectors of the images at work. Measured on VOC2007: 2.1 GB in all with EfficientNet-Lite0
# (21,600 numbers a vector) from stored maps, 2.2 with AlexNet (12,800) where convolution runs here, too.
_BASE_MEMORY = 1.85e9
# And this for each further scale: AlexNet's five took 2.5 GB beside vectors and negatives where convolution
# ran here, 1.2 GB from stored maps.
_SCALE_MEMORY = 0.2e9
# The vectors of so many images are in memory at a time: read ahead, scored, copied.
_IMAGES_IN_MEMORY = 4
# Room for at least so many proposals an image.
_MIN_PROPOSALS = 2000


def train_detector(
    data: TrainingData,
    extractor: Extractor,
    settings: RunSettings,
    work: Path,
    progress: Progress,
    join_feature_levels: bool = True,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Detector:
    """Trains one SVM and one box regressor a class.

    It can be stopped at any moment: run again with the same arguments, it goes on from its last snapshot.

    Args:
        data: the images to train on.
        extractor: regions to vectors.
        settings: of the run.
        work: folder for checkpoints and samples; the caller's to remove once the detector is saved.
        progress: called with a stage's name, images done, images in all.
        join_feature_levels: whether the constants that join the network's feature levels are fitted first.
        checkpoint_seconds: time between two snapshots.

    Raises:
        InputError: an image cannot be read, there is no object to train on, or a disk is full.

    Example:
        >>> from sppnet.common.progress import quiet
        >>> detector = train_detector(data, extractor, settings, Path("work"), quiet)  # doctest: +SKIP
    """
    return train_with_folds(
        data, extractor, settings, work, progress, (), join_feature_levels, checkpoint_seconds
    )[0]


def check_room(dataset: Dataset, extractor: Extractor, settings: RunSettings) -> None:
    """Checks before the work that the positives of a data set fit into the memory of training.

    Raises:
        InputError: they do not.
    """
    positives = _num_positives(dataset, settings)
    memory = _store_bytes(extractor, settings.training.memory_gb, _MIN_PROPOSALS)
    miner = HardNegativeMiner(len(dataset.classes), extractor.length, settings.mining, 1.0, memory)
    try:
        miner.check_room(positives)
    except ValueError as error:
        raise InputError(f"training.memory_gb is {settings.training.memory_gb}: {error}") from error


def mining_for(dataset: Dataset, settings: RunSettings) -> MiningSettings:
    """The settings of mining, with the C that suits the number of objects; see `TrainingSettings`.

    Args:
        dataset: the images to train on.
        settings: of the run.
    """
    mining, training = settings.mining, settings.training
    objects = objects_by_class(dataset, training.difficult_positives)
    if not training.cost_objects or not objects.any():
        return mining
    factor = math.sqrt(training.cost_objects / float(objects[objects > 0].mean()))
    return replace(mining, solver=replace(mining.solver, cost=mining.solver.cost * factor))


def train_with_folds(
    data: TrainingData,
    extractor: Extractor,
    settings: RunSettings,
    work: Path,
    progress: Progress,
    folds: Sequence[Sequence[int]],
    join_feature_levels: bool = True,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> tuple[Detector, list[Detector]]:
    """Trains a detector, and others that judge parts of its images as if they were new.

    Mining is done once. Then the SVMs are trained again without the positives and negatives of each fold,
    from the solution on all images. The other parts of these detectors are those of the detector.

    Args:
        data: the images to train on.
        extractor: regions to vectors.
        settings: of the run.
        work: folder for checkpoints and samples; see `train_detector`.
        progress: called with a stage's name, images done, images in all.
        folds: the indices of the images of each part.
        join_feature_levels: whether the constants that join the network's feature levels are fitted first.
        checkpoint_seconds: time between two snapshots.

    Returns:
        the detector, the same whatever the folds are; and a detector for each fold.

    Raises:
        InputError: see `train_detector`.
    """
    dataset = data.dataset
    difficult = settings.training.difficult_positives
    if not objects_by_class(dataset, difficult).any():
        raise InputError(f"{dataset.name} {dataset.split}: no annotated object to train on")
    try:
        with disk_errors_named(work):
            work.mkdir(parents=True, exist_ok=True)
            if join_feature_levels:
                fit_and_join(dataset, extractor, settings, work, progress)
            store = extractor.store(data.maps, data.map_bytes)
            training = _Training(data, extractor, store, settings, work, progress, checkpoint_seconds, folds)
            head, fold_heads, regressors = training.run()
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
    detector = Detector(dataset.classes, extractor, head, regressors, settings.detection, data.engine, origin)
    return detector, [replace(detector, head=fold_head) for fold_head in fold_heads]


@dataclass(frozen=True, eq=False)
class _Training:
    """The two passes over the images; arguments as of `train_with_folds`."""

    data: TrainingData
    extractor: Extractor
    store: PreparedStore
    settings: RunSettings
    work: Path
    progress: Progress
    checkpoint_seconds: float
    folds: Sequence[Sequence[int]]

    def run(self) -> tuple[SVMHead, list[SVMHead], BoxRegressors | None]:
        count = len(self.data.dataset)
        purpose = {
            "settings": self.settings.without_finetuning(),
            "vectors": self.extractor.identity(),
            "dataset": self.data.dataset.digest(),
        }
        checkpoint = Checkpoint(self.work, purpose)
        miner, sampler, factor, first = self._resumed(checkpoint) or self._started()
        periodic = PeriodicCheckpoint(checkpoint, self.checkpoint_seconds)
        self.progress("mining", first, count)
        rest = range(first, count)
        for image in training_images(self.data, self.extractor, self.store, rest, with_proposals=rest):
            try:
                self._add(image, miner, sampler)
            except ValueError as error:
                raise InputError(f"{image.example.path}: cannot be trained on ({error})") from error
            self.progress("mining", image.index + 1, count)
            periodic.save_if_due(partial(_snapshot, miner, sampler, factor, image.index + 1))
        steps = 2 + len(self.folds)
        self.progress("final training", 0, steps)
        svms = miner.finish()
        _LOG.info("mining: %s", miner.statistics())
        fold_heads = []
        for done, fold in enumerate(self.folds, start=1):
            self.progress("final training", done, steps)
            fold_heads.append(SVMHead.of(miner.finish_without(fold, self._positives_of(fold))))
        del miner
        self.progress("final training", steps - 1, steps)
        regressors = None
        if self.settings.training.regression:
            try:
                regressors = sampler.finish()
            except DamageError:
                # The snapshot goes with the sample.
                checkpoint.remove()
                raise
        self.progress("final training", steps, steps)
        return SVMHead.of(svms), fold_heads, regressors

    def _positives_of(self, indices: Sequence[int]) -> list[int]:
        """The numbers of the positives of some images, in the order of `_add_positives`."""
        training = self.settings.training
        counts = [
            int(positive_objects(example, training.difficult_positives).sum())
            for example in self.data.dataset
        ]
        chosen = np.repeat(np.isin(np.arange(len(counts)), list(indices)), counts)
        numbers: list[int] = np.flatnonzero(np.tile(chosen, 1 + training.mirrored_positives)).tolist()
        return numbers

    def _started(self) -> tuple[HardNegativeMiner, RegressionSampler, float, int]:
        """A miner that knows the positives, an empty sampler, the norm factor, and the first image."""
        dataset, settings = self.data.dataset, self.settings
        classes, length = len(dataset.classes), self.extractor.length
        factor = norm_factor(self._mean_norm())
        mining = mining_for(dataset, settings)
        miner = HardNegativeMiner(classes, length, mining, factor, self._memory(), allowed_cores())
        # Before the network has seen all images.
        miner.check_room(_num_positives(dataset, settings))
        self._add_positives(miner)
        give_back()
        sampler = RegressionSampler(classes, length, settings.regression, factor, self.work / "samples")
        return miner, sampler, factor, 0

    def _resumed(
        self, checkpoint: Checkpoint
    ) -> tuple[HardNegativeMiner, RegressionSampler, float, int] | None:
        """As `_started`, from the latest snapshot; None where there is none."""
        state = checkpoint.load()
        if state is None:
            return None
        settings, factor = self.settings, float(state["factor"])
        miner = HardNegativeMiner.from_state(
            part(state, "miner."),
            mining_for(self.data.dataset, settings),
            factor,
            self._memory(),
            allowed_cores(),
        )
        try:
            sampler = RegressionSampler.from_state(
                part(state, "sampler."), self.extractor.length, settings.regression, factor,
                self.work / "samples",
            )  # fmt: skip
        except ValueError as error:
            _LOG.warning("%s; the training starts again from the beginning", error)
            return None
        return miner, sampler, factor, int(state["next"])

    def _add(self, image: TrainingImage, miner: HardNegativeMiner, sampler: RegressionSampler) -> None:
        """Offers an image's regions to the miner and the sampler."""
        training, regression = self.settings.training, self.settings.regression
        ground_truth, labels = image.example.boxes, image.example.labels
        iou = box_iou(image.boxes, ground_truth).astype(np.float32)
        iou_by_class = np.zeros((len(image.boxes), len(self.data.dataset.classes)), np.float32)
        np.maximum.at(iou_by_class.T, labels, iou.T)
        # Regions that share a window count as one (released code), a negative if any of them is.
        features, rows = image.pooled.features, image.pooled.rows
        least = np.full((len(features), iou_by_class.shape[1]), np.inf, np.float32)
        np.minimum.at(least, rows, iou_by_class)
        representative = np.zeros((len(features), 4), np.float32)
        representative[rows] = image.boxes
        miner.add_image(image.index, features, least, representative)
        if training.regression and len(ground_truth):
            positives = np.flatnonzero(positive_objects(image.example, training.difficult_positives))
            best = iou[:, positives].max(axis=1, initial=0.0)
            near = np.flatnonzero(best >= regression.min_iou)
            sampler.add_image(
                image.index, features[rows[near]], image.boxes[near],
                ground_truth[positives], labels[positives],
            )  # fmt: skip

    def _memory(self) -> int:
        """Bytes for the store of negatives."""
        data = self.data
        counts = [len(propose_example(example, data.engine, data.cache)) for example in data.dataset]
        return _store_bytes(self.extractor, self.settings.training.memory_gb, max(_MIN_PROPOSALS, *counts))

    def _mean_norm(self) -> float:
        """The mean norm of the vectors of sampled regions, ground truth and proposals, of sampled images."""
        training, count = self.settings.training, len(self.data.dataset)
        rng = np.random.default_rng(training.seed)
        chosen = sorted(rng.choice(count, min(training.norm_images, count), replace=False).tolist())
        norms = []
        images = training_images(self.data, self.extractor, self.store, chosen, with_proposals=chosen)
        for done, image in enumerate(images):
            self.progress("feature norm", done, len(chosen))
            rows = rng.permutation(image.pooled.rows)[: training.norm_proposals]
            norms.append(np.linalg.norm(image.pooled.features[rows], axis=1))
        self.progress("feature norm", len(chosen), len(chosen))
        return float(np.concatenate(norms).mean())

    def _add_positives(self, miner: HardNegativeMiner) -> None:
        """Gives the miner the vectors of ground truth, image by image: it keeps a byte a number, not four."""
        training, count = self.settings.training, len(self.data.dataset)
        difficult = training.difficult_positives
        images = training_images(self.data, self.extractor, self.store, range(count), with_proposals=())
        if training.mirrored_positives:
            with_objects = [
                index for index, example in enumerate(self.data.dataset)
                if positive_objects(example, difficult).any()
            ]  # fmt: skip
            mirrored = training_images(
                self.data, self.extractor, self.store, with_objects, with_proposals=(), mirrored=True
            )
            images, count = itertools.chain(images, mirrored), count + len(with_objects)
        for done, image in enumerate(images, start=1):
            chosen = np.flatnonzero(positive_objects(image.example, difficult))
            features = image.pooled.features[image.pooled.rows[chosen]]
            try:
                miner.add_positives(features, image.example.labels[chosen])
            except ValueError as error:
                raise InputError(f"{image.example.path}: cannot be trained on ({error})") from error
            self.progress("convolution", done, count)


def _num_positives(dataset: Dataset, settings: RunSettings) -> int:
    """The rows of positives that the store has to hold."""
    objects = int(objects_by_class(dataset, settings.training.difficult_positives).sum())
    return objects * (1 + settings.training.mirrored_positives)


def _store_bytes(extractor: Extractor, memory_gb: float, proposals: int) -> int:
    """Bytes for the store of negatives where images have at most so many proposals."""
    vectors = 4 * extractor.pooled_length * _IMAGES_IN_MEMORY * proposals
    base = _BASE_MEMORY + _SCALE_MEMORY * (len(extractor.settings.scales) - 1)
    return max(0, int(memory_gb * 1e9 - base - vectors))


def _snapshot(
    miner: HardNegativeMiner, sampler: RegressionSampler, factor: float, done: int
) -> dict[str, NDArray[Any]]:
    arrays = {f"miner.{name}": array for name, array in miner.state().items()}
    arrays |= {f"sampler.{name}": array for name, array in sampler.state().items()}
    return arrays | {"factor": np.array(factor), "next": np.array(done)}
