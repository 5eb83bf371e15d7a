"""Fine-tuning: fully connected layers trained on regions of frozen feature maps (SPP-net §4.1)."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sppnet.common.checkpoint import disk_errors_named
from sppnet.common.distributed import ALONE, Group
from sppnet.common.errors import InputError
from sppnet.common.prefetch import prefetch
from sppnet.common.progress import Progress
from sppnet.common.resumable import CHECKPOINT_SECONDS, ResumableLoop
from sppnet.data.types import Dataset
from sppnet.detection.backbones import weights_digest
from sppnet.detection.fc_layers import FullyConnected, read_layers
from sppnet.detection.features.extractor import Extractor
from sppnet.detection.heads import SoftmaxHead
from sppnet.detection.training.fc_network import FCNetwork
from sppnet.detection.training.finetuning_settings import FineTuningSettings
from sppnet.detection.training.positives import objects_by_class
from sppnet.detection.training.presets import RunSettings
from sppnet.detection.training.training_images import TrainingData
from sppnet.detection.training.validation import Score, validate
from sppnet.detection.training.window_batches import RegionDraw, VectorFile
from sppnet.detection.training.window_sampling import BACKGROUND, RegionSampler

# Number of the draw that validation is on; those of training count from 1.
_VALIDATION_DRAW = 0
# Bytes beside the network's: the interpreter, a batch, the maps of a few images.
_BASE_MEMORY = 1.2e9
# The network, its gradients, one or two moments, and the best network so far.
_COPIES = {"sgd": 4, "adamw": 5}


@dataclass(frozen=True, eq=False)
class FineTuned:
    """Fine-tuned layers with their softmax.

    Attributes:
        layers: fc6 and fc7, for vectors as the extractor gives them.
        head: fc8.
        step: steps made before the validation that chose these layers.
        history: the scores of all validations, in order.
    """

    layers: FullyConnected
    head: SoftmaxHead
    step: int
    history: tuple[Score, ...]


def split_images(dataset: Dataset, settings: FineTuningSettings) -> tuple[list[int], list[int]]:
    """Indices of the images to train on and of those held out, both in order.

    Raises:
        InputError: fewer than two images.
    """
    if len(dataset) < 2:
        raise InputError(
            f"{dataset.name} {dataset.split}: {len(dataset)} images; fine-tuning takes 2 or more, "
            "for some are held out"
        )
    order = np.random.default_rng(settings.seed).permutation(len(dataset))
    held_out = min(max(1, round(settings.validation * len(dataset))), len(dataset) - 1)
    return sorted(order[held_out:].tolist()), sorted(order[:held_out].tolist())


def starting_layers(settings: FineTuningSettings, extractor: Extractor) -> FullyConnected | None:
    """The layers of the settings' file of weights, or None without one.

    Args:
        settings: of fine-tuning.
        extractor: the network, whose feature levels need not be fitted yet, and pooling.

    Raises:
        InputError: see `read_layers`.
    """
    if not settings.weights:
        return None
    levels, channels = extractor.settings.levels, extractor.network.channels
    return read_layers(Path(settings.weights), levels, channels, settings.width)


def check_finetuning(dataset: Dataset, extractor: Extractor, settings: RunSettings) -> None:
    """Checks before the work that layers can be fine-tuned on a data set.

    Args:
        dataset: to train on.
        extractor: the network, whose feature levels need not be fitted yet, and pooling.
        settings: of the run.

    Raises:
        InputError: too few images, no object among those to train on or those held out, too little memory or
            disk, or see `starting_layers`.
    """
    tuning = settings.finetuning
    starting_layers(tuning, extractor)
    for images in split_images(dataset, tuning):
        part = replace(dataset, examples=tuple(dataset[index] for index in images))
        if not objects_by_class(part, settings.training.difficult_positives).any():
            raise InputError(
                f"{dataset.name} {dataset.split}: none of the {len(part)} images that finetuning.validation "
                "leaves on one side has an object; take more images, or another finetuning.seed"
            )
    _check_memory(extractor.length, settings)
    _regions_per_image(len(dataset), extractor.length, tuning)


def finetune(
    data: TrainingData,
    extractor: Extractor,
    norm_factor: float,
    settings: RunSettings,
    work: Path,
    progress: Progress,
    group: Group = ALONE,
    *,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> FineTuned:
    """Trains fc6, fc7 and fc8.

    It can be stopped at any moment: run again with the same arguments, it goes on from its last checkpoint to
    the same result as without the stop. Every random choice follows from the seed and the step.

    Several processes share each batch, image by image: the steps are those of one process, up to rounding and
    to dropout, which each draws for itself.

    Args:
        data: images to train on.
        extractor: the network, its feature levels fitted, and pooling.
        norm_factor: pooled vectors are multiplied by it, so that their mean square is 1. Layers from a file
            take vectors as they are.
        settings: of the run.
        work: folder for checkpoints and drawn vectors, the same for all processes; the caller's to remove.
        progress: called with a stage's name, how much is done, how much there is.
        group: the processes of this training.
        checkpoint_seconds: time between two checkpoints.

    Raises:
        InputError: no positives, an image or the file of weights cannot be read, a disk is full, the loss is
            no longer finite.
    """
    with disk_errors_named(work):
        training = _FineTuning(
            data, extractor, norm_factor, settings, work, progress, group, checkpoint_seconds
        )
        return training.run()


class _FineTuning:
    def __init__(
        self,
        data: TrainingData,
        extractor: Extractor,
        norm_factor: float,
        settings: RunSettings,
        work: Path,
        progress: Progress,
        group: Group,
        checkpoint_seconds: float,
    ) -> None:
        self.settings, self.group, self.work, self.progress = settings.finetuning, group, work, progress
        self.classes, self.length = len(data.dataset.classes), extractor.length
        self.name = f"{data.dataset.name} {data.dataset.split}"
        start = starting_layers(self.settings, extractor)
        self.norm_factor = 1.0 if start else norm_factor
        _check_memory(self.length, settings)
        self.net = self._network(start)
        self.trained: nn.Module = self.net
        self.sampler = RegionSampler(data, extractor, self.settings, settings.training.difficult_positives)
        self.train_images, self.held_out = split_images(data.dataset, self.settings)
        self.per_image = _regions_per_image(len(data.dataset), self.length, self.settings)
        groups = self.net.parameter_groups(self.settings)
        rate = self.settings.rates[0]
        if self.settings.optimiser == "sgd":
            self.optimiser: torch.optim.Optimizer = torch.optim.SGD(
                groups, rate, momentum=self.settings.momentum, fused=True
            )
        else:
            self.optimiser = torch.optim.AdamW(groups, rate, fused=True)
        self.best = copy.deepcopy(self.net)
        purpose = {
            "settings": settings.without_calibration(), "dataset": data.dataset.digest(),
            "scale": norm_factor,
            "weights": weights_digest(extractor.network), "start": weights_digest(self.net),
        }  # fmt: skip
        state = {"net": self.net, "best": self.best, "optimiser": self.optimiser}
        self.loop = ResumableLoop(
            work, purpose, state, Score, group=group, checkpoint_seconds=checkpoint_seconds
        )

    def run(self) -> FineTuned:
        settings, loop = self.settings, self.loop
        held_out = self._draw(self.held_out, _VALIDATION_DRAW, "validation")
        if self.group.size > 1:
            self.trained = nn.parallel.DistributedDataParallel(self.net)
        with torch.random.fork_rng(devices=[]):
            loop.run(
                self._batches(held_out), self._learn, settings.total_steps,
                validate=lambda: self._validate(held_out), validate_every=settings.validate_every,
                stage="fine-tuning", progress=self.progress,
            )  # fmt: skip
        held_out.file.close()
        chosen = max(loop.history, key=lambda score: score.merit(settings.choose))
        layers, head = self.best.layers(self.norm_factor), self.best.head()
        return FineTuned(layers, head, chosen.step, tuple(loop.history))

    def _batches(self, held_out: RegionDraw) -> Iterator[tuple[Tensor, Tensor, int]]:
        """The batches from the present step on; the regions are drawn anew every ``draw_steps``."""
        settings = self.settings
        while self.loop.step < settings.total_steps:
            number = 1 + self.loop.step // settings.draw_steps
            drawn = self._draw(self.train_images, number, "training")
            if not (drawn.labels < self.classes).any():
                raise InputError(f"{self.name}: no region overlaps an object; nothing to fine-tune on")
            if not (held_out.labels < self.classes).any():
                raise InputError(
                    f"{self.name}: no region of the {len(self.held_out)} held-out images overlaps an "
                    "object, so no snapshot can be chosen; raise finetuning.validation, or take another "
                    "finetuning.seed"
                )
            if self.loop.step == 0:
                self._standardise(drawn)
            end = min(number * settings.draw_steps, settings.total_steps)
            yield from prefetch(drawn.batch, range(self.loop.step, end), ahead=1)
            drawn.file.close()

    def _standardise(self, drawn: RegionDraw) -> None:
        """Sets the mean and deviation by which vectors are standardised, from a sample of them."""
        if self.settings.inputs == "scaled" or self.settings.weights:
            return
        mean, deviation = drawn.moments(self.group)
        self.net.mean.copy_(mean)
        if self.settings.inputs == "standardised":
            # A number that hardly ever differs from its mean must not be blown up.
            self.net.deviation.copy_(deviation + 0.1 * deviation.mean())

    def _learn(self, batch: tuple[Tensor, Tensor, int]) -> None:
        vectors, labels, count = batch
        settings = self.settings
        self.loop.seed_torch(settings.seed)
        for parameters in self.optimiser.param_groups:
            parameters["lr"] = settings.rate(self.loop.step) * parameters["factor"]
        self.trained.train()
        losses = nn.functional.cross_entropy(self.trained(vectors), labels, reduction="sum")
        # Checked before a checkpoint keeps it. A process without a region of the batch has a loss of 0.
        if not losses.isfinite():
            raise self._diverged(self.loop.step + 1)
        self.optimiser.zero_grad()
        # The processes' gradients are averaged, but their parts of the batch are not of one size.
        (losses * (self.group.size / count)).backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()

    def _validate(self, held_out: RegionDraw) -> None:
        score = validate(self.net, held_out, self.loop.step, self.group)
        if not math.isfinite(score.loss):
            raise self._diverged(self.loop.step)
        choose = self.settings.choose
        if all(score.merit(choose) > earlier.merit(choose) for earlier in self.loop.history):
            self.best.load_state_dict(self.net.state_dict())
        self.loop.history.append(score)

    def _diverged(self, step: int) -> InputError:
        return InputError(f"{self.name}: fine-tuning diverged at step {step}; lower finetuning.rates")

    def _draw(self, images: list[int], number: int, purpose: str) -> RegionDraw:
        """Regions of all the images, and the vectors of this process' share of them."""
        rank, size = self.group.rank, self.group.size
        augment = number != _VALIDATION_DRAW
        regions = self.sampler.draw(images, number, self.per_image, augment)
        # Shared by images: each image's regions are pooled by one process.
        share = np.flatnonzero(np.searchsorted(images, regions.images) % size == rank)
        file = VectorFile(self.work / f"{purpose}-{rank}.f16", self.length)
        file.fill(
            self.sampler, regions.only(share), self.norm_factor,
            lambda done, total: self.progress(f"regions for {purpose}, draw {number}", done, total),
        )  # fmt: skip
        labels = np.where(regions.labels == BACKGROUND, self.classes, regions.labels)
        return RegionDraw(file, share, labels, self.classes, self.settings, number)

    def _network(self, start: FullyConnected | None) -> FCNetwork:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            net = FCNetwork(self.length, self.classes, self.settings)
        if start is not None:
            net.start_from(start)
        return net


def _regions_per_image(images: int, length: int, settings: FineTuningSettings) -> int:
    """The regions drawn from an image: as many as set, or as the bound on all processes' files allows."""
    fitting = int(settings.disk_gb * 1e9 / (images * length * np.float16().nbytes))
    if fitting < settings.proposals_per_image and fitting < 4:
        raise InputError(
            f"finetuning.disk_gb is {settings.disk_gb}, which leaves {fitting} regions an image; give more"
        )
    return min(settings.proposals_per_image, fitting)


def _check_memory(length: int, settings: RunSettings) -> None:
    width, memory_gb = settings.finetuning.width, settings.training.memory_gb
    numbers = (length + width) * width
    needed = (4 * numbers * _COPIES[settings.finetuning.optimiser] + _BASE_MEMORY) / 1e9
    if needed > memory_gb:
        raise InputError(
            f"finetuning.width {width} on vectors of {length} takes {needed:.1f} GB, "
            f"training.memory_gb is {memory_gb}; choose a smaller width or give more memory"
        )
