"""Fine-tuning: fully connected layers trained on windows of frozen feature maps (SPP-net §4.1)."""

import time
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sppnet.common.checkpoint import Checkpoint, disk_errors_named, load_optimiser, optimiser_tensors, part
from sppnet.common.distributed import ALONE, Group
from sppnet.common.errors import InputError
from sppnet.common.prefetch import prefetch
from sppnet.data.types import Dataset
from sppnet.detection.backbones import weights_digest
from sppnet.detection.fc_layers import FullyConnected, SoftmaxHead, read_layers
from sppnet.detection.features.extractor import FeatureExtractor
from sppnet.detection.training.fc_network import FCNetwork
from sppnet.detection.training.finetuning_settings import FineTuningSettings
from sppnet.detection.training.presets import RunSettings
from sppnet.detection.training.svm_training import TrainingData
from sppnet.detection.training.validation import Score, validate
from sppnet.detection.training.window_batches import Drawn, WindowFile
from sppnet.detection.training.window_sampling import BACKGROUND, WindowSampler

_CHECKPOINT_SECONDS = 240.0
# Number of the draw that validation is on; those of training count from 1.
_VALIDATION_DRAW = 0
# Beside the network's: the interpreter, a batch, maps of the images at hand.
_BASE_MEMORY = 1.2e9
# The network, its gradients, one or two moments, and the best snapshot.
_COPIES = {"sgd": 4, "adamw": 5}

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class FineTuned:
    """What fine-tuning gives.

    Attributes:
        layers: fc6 and fc7, for unscaled vectors.
        head: fc8.
        step: of the chosen snapshot: so many steps were made before it.
        history: a score at each validation, in order.
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


def starting_layers(settings: FineTuningSettings, extractor: FeatureExtractor) -> FullyConnected | None:
    """The layers of the settings' file of weights, or None without one.

    Args:
        settings: of fine-tuning.
        extractor: the network, whose taps need not be fitted yet, and pooling.

    Raises:
        InputError: see `read_layers`.
    """
    if not settings.weights:
        return None
    levels, channels = extractor.settings.levels, extractor.network.channels
    return read_layers(Path(settings.weights), levels, channels, settings.width)


def finetune(
    data: TrainingData,
    extractor: FeatureExtractor,
    scale: float,
    settings: RunSettings,
    work: Path,
    progress: Progress,
    group: Group = ALONE,
) -> FineTuned:
    """Trains fc6, fc7 and fc8.

    It can be stopped at any moment: run again with the same arguments, it goes on from a checkpoint that is
    at most four minutes old, to the same result as without the break. Every random choice follows from the
    seed and the step, so that the position is all there is to keep of them.

    Several processes share each batch, image by image: the steps are those of one process, up to rounding and
    to dropout, which each draws for itself.

    Args:
        data: what to train on.
        extractor: the network, its taps fitted, and pooling.
        scale: what pooled vectors are multiplied by: brings their mean square to 1. Layers from a file take
            them as they are.
        settings: of the run.
        work: folder for checkpoints and drawn windows, the same for all processes; the caller's to remove.
        progress: called with a stage's name, how much is done, how much there is.
        group: the processes of this training.

    Raises:
        InputError: no positives, an image or the file of weights cannot be read, a disk is full, the loss is
            no longer finite.
    """
    with disk_errors_named(work):
        return _Training(data, extractor, scale, settings, work, progress, group).run()


class _Training:
    def __init__(
        self,
        data: TrainingData,
        extractor: FeatureExtractor,
        scale: float,
        settings: RunSettings,
        work: Path,
        progress: Progress,
        group: Group,
    ) -> None:
        self.settings, self.group, self.work, self.progress = settings.finetuning, group, work, progress
        self.classes, self.length = len(data.dataset.classes), extractor.length
        self.name = f"{data.dataset.name} {data.dataset.split}"
        start = starting_layers(self.settings, extractor)
        self.scale = 1.0 if start else scale
        self.net = self._network(start, settings.training.memory_gb)
        self.sampler = WindowSampler(data, extractor, self.settings, settings.training.difficult_positives)
        self.train_images, self.held_out = split_images(data.dataset, self.settings)
        self.per_image = self._windows_per_image()
        groups = self.net.parameter_groups(self.settings)
        if self.settings.optimiser == "sgd":
            self.optimiser: torch.optim.Optimizer = torch.optim.SGD(
                groups, self.settings.rates[0], momentum=self.settings.momentum, fused=True
            )
        else:
            self.optimiser = torch.optim.AdamW(groups, self.settings.rates[0], fused=True)
        purpose = {
            "settings": asdict(settings), "dataset": data.dataset.digest(), "scale": scale,
            "weights": weights_digest(extractor.network), "start": weights_digest(self.net),
        }  # fmt: skip
        self.checkpoint = Checkpoint(work, purpose)
        self.best = {name: tensor.clone() for name, tensor in self.net.state_dict().items()}
        self.history: list[Score] = []
        self.step = 0
        self._restore()

    def run(self) -> FineTuned:
        settings, group = self.settings, self.group
        held_out = self._draw(self.held_out, _VALIDATION_DRAW, "validation")
        trained: nn.Module = self.net
        if group.size > 1:
            trained = nn.parallel.DistributedDataParallel(self.net)
        saved = time.monotonic()
        with torch.random.fork_rng(devices=[]):
            while self.step < settings.total_steps:
                number = 1 + self.step // settings.draw_steps
                drawn = self._draw(self.train_images, number, "training")
                if not (drawn.labels < self.classes).any():
                    raise InputError(f"{self.name}: no window overlaps an object; nothing to fine-tune on")
                if not (held_out.labels < self.classes).any():
                    raise InputError(
                        f"{self.name}: no window of the {len(self.held_out)} held-out images overlaps an "
                        "object, so no snapshot can be chosen; raise finetuning.validation, or take another "
                        "finetuning.seed"
                    )
                if self.step == 0:
                    self._standardise(drawn)
                end = min(number * settings.draw_steps, settings.total_steps)
                for vectors, labels, count in prefetch(drawn.batch, range(self.step, end), ahead=1):
                    self._learn(trained, vectors, labels, count)
                    self.step += 1
                    if self.step % settings.validate_every == 0 or self.step == settings.total_steps:
                        self._validate(held_out)
                    self.progress("fine-tuning", self.step, settings.total_steps)
                    if group.rank == 0 and time.monotonic() - saved > _CHECKPOINT_SECONDS:
                        self.checkpoint.save(self._state())
                        saved = time.monotonic()
                drawn.file.close()
        held_out.file.close()
        self.net.load_state_dict(self.best)
        chosen = max(self.history, key=lambda one: one.merit(settings.choose))
        return FineTuned(self.net.layers(self.scale), self.net.head(), chosen.step, tuple(self.history))

    def _standardise(self, drawn: Drawn) -> None:
        """Sets what is taken off the vectors, and what they are divided by, from some of them."""
        if self.settings.inputs == "scaled" or self.settings.weights:
            return
        mean, deviation = drawn.moments(self.group)
        self.net.mean.copy_(mean)
        if self.settings.inputs == "standardised":
            # A number that hardly ever differs from its mean must not be blown up.
            self.net.deviation.copy_(deviation + 0.1 * deviation.mean())

    def _learn(self, trained: nn.Module, vectors: Tensor, labels: Tensor, count: int) -> None:
        settings = self.settings
        torch.manual_seed(_seed(settings.seed, self.step, self.group.rank))
        for group in self.optimiser.param_groups:
            group["lr"] = settings.rate(self.step) * group["factor"]
        trained.train()
        losses = nn.functional.cross_entropy(trained(vectors), labels, reduction="sum")
        # Before a checkpoint keeps it. Where a process has none of the batch's windows, it is 0.
        if not losses.isfinite():
            raise InputError(
                f"{self.name}: fine-tuning diverged at step {self.step + 1}; lower finetuning.rates"
            )
        self.optimiser.zero_grad()
        # The processes' gradients are averaged, but their parts of the batch are not of one size.
        (losses * (self.group.size / count)).backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()

    def _validate(self, held_out: Drawn) -> None:
        score = validate(
            self.net, held_out.file.read, held_out.mine, held_out.labels, self.classes, self.step, self.group
        )
        choose = self.settings.choose
        if all(score.merit(choose) > earlier.merit(choose) for earlier in self.history):
            self.best = {name: tensor.clone() for name, tensor in self.net.state_dict().items()}
        self.history.append(score)

    def _draw(self, images: list[int], number: int, name: str) -> Drawn:
        """Windows of all the images, and the vectors of this process' share of them."""
        rank, size = self.group.rank, self.group.size
        augment = number != _VALIDATION_DRAW
        windows = self.sampler.draw(images, number, self.per_image, augment)
        # By images, each of which one process has to pool windows from.
        mine = np.flatnonzero(np.searchsorted(images, windows.images) % size == rank)
        file = WindowFile(self.work / f"{name}-{rank}.f16", self.length)
        file.fill(
            self.sampler, windows.only(mine), self.scale,
            lambda done, total: self.progress(f"windows for {name}, draw {number}", done, total),
        )  # fmt: skip
        labels = np.where(windows.labels == BACKGROUND, self.classes, windows.labels)
        return Drawn(file, mine, labels, self.classes, self.settings, number)

    def _windows_per_image(self) -> int:
        """As many as wanted, or as the bound on the files of all processes together leaves."""
        images = len(self.train_images) + len(self.held_out)
        fitting = int(self.settings.disk_gb * 1e9 / (images * self.length * np.float16().nbytes))
        if fitting < self.settings.proposals_per_image and fitting < 4:
            raise InputError(
                f"finetuning.disk_gb is {self.settings.disk_gb}, which leaves {fitting} windows "
                "an image; give more"
            )
        return min(self.settings.proposals_per_image, fitting)

    def _network(self, start: FullyConnected | None, memory_gb: float) -> FCNetwork:
        width = self.settings.width
        numbers = (self.length + width) * width
        needed = (4 * numbers * _COPIES[self.settings.optimiser] + _BASE_MEMORY) / 1e9
        if needed > memory_gb:
            raise InputError(
                f"finetuning.width {width} on vectors of {self.length} takes {needed:.1f} GB, "
                f"training.memory_gb is {memory_gb}; choose a smaller width or give more memory"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            net = FCNetwork(self.length, self.classes, self.settings)
        if start is not None:
            net.start_from(start)
        return net

    def _state(self) -> dict[str, NDArray[Any]]:
        arrays: dict[str, Tensor] = {f"net.{name}": one for name, one in self.net.state_dict().items()}
        arrays |= {f"best.{name}": one for name, one in self.best.items()}
        arrays |= {f"optimiser.{name}": one for name, one in optimiser_tensors(self.optimiser).items()}
        history = np.array([astuple(one) for one in self.history], np.float64).reshape(-1, 4)
        return {name: one.numpy() for name, one in arrays.items()} | {
            "history": history, "step": np.array(self.step)
        }  # fmt: skip

    def _restore(self) -> None:
        """Goes on from the checkpoint, if there is one."""
        state = self.checkpoint.load()
        step = 0 if state is None else int(state["step"])
        # Before the first process writes a new one, all must have read the same.
        if not self.group.agree(step):
            raise InputError(
                f"{self.work}: the processes see different checkpoints there; they must share it"
            )
        if state is None:
            return
        tensors = {name: torch.from_numpy(np.array(one)) for name, one in state.items()}
        self.net.load_state_dict(part(tensors, "net."))
        self.best = part(tensors, "best.")
        load_optimiser(self.optimiser, part(tensors, "optimiser."))
        self.history = [Score(int(row[0]), *row[1:].tolist()) for row in np.asarray(state["history"])]
        self.step = step


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
