"""Distilling: a network learns to reproduce, from images alone, the maps of stronger networks."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sppnet.common.arrays import FloatArray
from sppnet.common.checkpoint import Checkpoint, disk_errors_named, load_optimiser, optimiser_tensors, part
from sppnet.common.errors import InputError
from sppnet.common.files import json_digest
from sppnet.common.prefetch import prefetch
from sppnet.data.images import read_image
from sppnet.data.types import Dataset
from sppnet.detection.backbones import build_network, weights_digest
from sppnet.detection.backbones.base import SequentialNetwork
from sppnet.detection.backbones.build import starting_weights
from sppnet.detection.backbones.folding import fold_structure
from sppnet.detection.backbones.zf5 import WithinChannelLRN
from sppnet.detection.distillation.muon import Muon
from sppnet.detection.distillation.settings import DistillSettings
from sppnet.detection.distillation.teachers import (
    LABELS,
    Labels,
    Standard,
    Teacher,
    View,
    source_digest,
    standard_of,
    teacher_parts,
)
from sppnet.detection.features.extractor import FeatureExtractor, FeatureSettings
from sppnet.proposals import image_key

_CHECKPOINT_SECONDS = 240.0
# Pixels reach zf5 as -128 to 127 (released code). It learns from a 64th of that, as initialisation and AdamW
# suit inputs of about unit variance. With its first weights divided by 64 it is the same network for pixels
# as they come.
_INPUT_SCALE = 64.0
_WORKERS = 2

Progress = Callable[[str, int, int], None]
Kept = Callable[[int, dict[str, Tensor]], None]


def sources_digests(settings: DistillSettings) -> list[str]:
    """`source_digest` of each teacher: the settings have names of files, whose content may change."""
    return [source_digest(teacher_parts(one, len(settings.scales))[0]) for one in settings.teachers]


@dataclass(frozen=True)
class Point:
    """How well the maps of held-out images were reproduced.

    Attributes:
        step: so many were made.
        seconds: of training so far.
        explained: by teacher and tap, the part of the variance explained, of all channels together.
    """

    step: int
    seconds: float
    explained: tuple[tuple[float, ...], ...]


class _Student(nn.Module):
    """The network that learns, with one 1×1 convolution a teacher that is dropped in the end.

    Each of its convolutions is followed by a batch normalisation, which in the end becomes part of it. While
    it trains, normalisation within channels (zf5's) is left out: it takes nearly half of the time, and with
    values of about 1 it changes them by a hundredth at most. Validation and use have it.
    """

    def __init__(self, layers: nn.Sequential, channels: int, wanted: list[int]) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for name, layer in layers.named_children():
            self.layers.add_module(name, layer)
            if isinstance(layer, nn.Conv2d):
                self.layers.add_module(f"{name}_norm", nn.BatchNorm2d(layer.out_channels))
        self.adapters = nn.ModuleList(nn.Conv2d(channels, one, 1) for one in wanted)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Float (N, 3, H, W) to a map (N, C_t, h, w) for each teacher."""
        maps = images
        for layer in self.layers:
            if not (self.training and isinstance(layer, WithinChannelLRN)):
                maps = layer(maps)
        return [adapter(maps) for adapter in self.adapters]


def learned_digest(dataset: Dataset, settings: DistillSettings) -> str:
    """SHA-256 over what is learned from: the images, and their annotations where these are a teacher."""
    images = {one.image_id: image_key(one).image_digest for one in dataset}
    annotations = dataset.digest() if LABELS in settings.teachers else ""
    return json_digest({"images": images, "annotations": annotations})


class Distilling:
    """Trains a network's convolutions on images.

    It can be stopped at any moment: made again with the same arguments, it goes on from a checkpoint that is
    at most four minutes old; every random choice follows from the seed and the step.
    """

    def __init__(
        self,
        dataset: Dataset,
        settings: DistillSettings,
        maps: Path,
        map_bytes: int,
        work: Path,
        progress: Progress,
        keep: Kept,
    ) -> None:
        """Builds student and teachers; nothing is computed or written yet.

        Args:
            dataset: its images are learned from, its annotations only if ``labels`` is among the teachers;
                some images are held out to measure on.
            settings: of the training.
            maps: folder where the teachers' maps are stored.
            map_bytes: bound on it.
            work: folder for checkpoints; the caller's to remove.
            progress: called with a stage's name, steps done, steps in all.
            keep: called at each validation with the step and the weights so far.

        Raises:
            InputError: an unknown network or teacher, a network that is no plain chain, too few images, crops
                of which the border leaves nothing.
        """
        self.dataset, self.settings, self.progress, self.keep = dataset, settings, progress, keep
        network = build_network(settings.network, starting_weights(settings.start), seed=settings.seed)
        layers = network.layers
        if (
            not isinstance(network, SequentialNetwork)
            or not isinstance(layers, nn.Sequential)
            or not any(isinstance(layer, nn.Conv2d) for layer in layers)
        ):
            raise InputError(f"{settings.network}: only a plain chain of layers can be taught; choose zf5")
        self.network = network
        self.teachers = [
            Labels(len(dataset.classes))
            if one == LABELS
            else Teacher(one, len(settings.scales), maps, map_bytes)
            for one in settings.teachers
        ]
        self.resizer = FeatureExtractor(network, FeatureSettings(settings.scales))
        order = np.random.default_rng(settings.seed).permutation(len(dataset))
        held_out = max(1, round(settings.validation * len(dataset)))
        if len(dataset) <= held_out:
            raise InputError(
                f"{dataset.name} {dataset.split}: {len(dataset)} images are too few to learn from"
            )
        self.held_out, self.images = order[:held_out], order[held_out:]
        first = next(one for one in layers.modules() if isinstance(one, nn.Conv2d))
        if settings.start:
            with torch.no_grad():
                first.weight *= _INPUT_SCALE
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.student = _Student(layers, network.channels, [sum(one.parts) for one in self.teachers])
        self.student.to(memory_format=torch.channels_last)
        kernels = [one for one in layers.parameters() if one.ndim > 1 and one is not first.weight]
        biases = [one for one in self.student.parameters() if one.ndim == 1]
        rest = [first.weight, *(one for one in self.student.adapters.parameters() if one.ndim > 1)]
        groups: list[dict[str, Any]] = [{"params": rest}, {"params": biases, "weight_decay": 0.0}]
        self.optimisers = {
            "muon": Muon(kernels, settings.rate, weight_decay=settings.weight_decay),
            "adamw": torch.optim.AdamW(groups, settings.rate, weight_decay=settings.weight_decay),
        }
        cells = network.cells(settings.crop, settings.crop)[0]
        self.inner = slice(settings.border, cells - settings.border)
        if self.inner.stop <= self.inner.start:
            raise InputError(f"crop {settings.crop}: has {cells} cells, of which border leaves none")
        self.cells = cells
        purpose = {
            "settings": asdict(settings), "dataset": learned_digest(dataset, settings),
            "start": weights_digest(self.student),
            "teachers": sources_digests(settings),
        }  # fmt: skip
        self.work, self.checkpoint = work, Checkpoint(work, purpose)
        self.step, self.seconds = 0, 0.0
        self.points: list[Point] = []
        self.standards: list[Standard] = []
        self._restore()

    def run(self) -> tuple[SequentialNetwork, list[Point]]:
        """Trains, or goes on.

        Returns:
            the network with what it has learned, and the validations in order.

        Raises:
            InputError: an image that cannot be read, a loss that is not finite, a full disk.
        """
        with disk_errors_named(self.work):
            self._train()
        self.network.layers.load_state_dict(self._weights())
        return self.network, self.points

    def _train(self) -> None:
        settings = self.settings
        if not self.standards:
            self.standards = self._fit_standards()
            if settings.start:
                self._keep_the_start()
        saved = begun = time.monotonic()
        before = self.seconds
        self.student.train()
        for images, targets in self._batches(self.step):
            self._learn(images, targets)
            self.step += 1
            self.seconds = before + time.monotonic() - begun
            if self.step % settings.snapshot_every == 0 or self.step == settings.steps:
                self.points.append(Point(self.step, self.seconds, self._explained()))
                self.keep(self.step, self._weights())
            self.progress("distilling", self.step, settings.steps)
            if time.monotonic() - saved > _CHECKPOINT_SECONDS:
                self.checkpoint.save(self._state())
                saved = time.monotonic()

    def _fit_standards(self) -> list[Standard]:
        """Of what the student is shown: values differ with the scale, and at an image's border."""
        seen: list[list[FloatArray]] = [[] for _ in self.teachers]
        chosen = self.images[: self.settings.statistics_images]
        for done, index in enumerate(chosen):
            self.progress("statistics of the teachers", done, len(chosen))
            _, values = self._crop(int(index), np.random.default_rng((self.settings.seed, 4, int(index))))
            for mine, one in zip(seen, values, strict=True):
                mine.append(one)
        return [
            standard_of(one, alike=isinstance(teacher, Labels))
            for teacher, one in zip(self.teachers, seen, strict=True)
        ]

    @torch.no_grad()
    def _keep_the_start(self) -> None:
        """Sets batch normalisation to what it takes away, so that the network gives what it gave before."""
        maps = torch.cat([self._sample(number)[0] for number in range(2 * self.settings.batch)])
        for layer in self.student.layers:
            if isinstance(layer, nn.BatchNorm2d):
                variance, mean = torch.var_mean(maps, dim=(0, 2, 3), correction=0)
                layer.running_mean, layer.running_var = mean, variance
                layer.weight.copy_((variance + layer.eps).sqrt())
                layer.bias.copy_(mean)
            else:
                maps = layer(maps)

    def _batches(self, first: int) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """The batches from step ``first`` on: images (N, 3, side, side), and targets (N, C_t, h, w)."""
        batch = self.settings.batch
        numbers = range(first * batch, self.settings.steps * batch)
        images: list[Tensor] = []
        targets: list[list[Tensor]] = [[] for _ in self.teachers]
        for image, seen in prefetch(self._sample, numbers, ahead=2 * batch, workers=_WORKERS):
            images.append(image)
            for mine, one in zip(targets, seen, strict=True):
                mine.append(one)
            if len(images) == batch:
                yield torch.cat(images), [torch.stack(mine) for mine in targets]
                images, targets = [], [[] for _ in self.teachers]

    def _sample(self, number: int) -> tuple[Tensor, list[Tensor]]:
        """The ``number``-th crop of the whole training."""
        epoch, place = divmod(number, len(self.images))
        seed = self.settings.seed
        order = np.random.default_rng((seed, 1, epoch)).permutation(len(self.images))
        rng = np.random.default_rng((seed, 2, number))
        return self._standardised(*self._crop(int(self.images[order[place]]), rng))

    def _standardised(self, image: Tensor, values: list[FloatArray]) -> tuple[Tensor, list[Tensor]]:
        """What the student is to give, each (C_t, h, w)."""
        pairs = zip(self.standards, values, strict=True)
        return image, [standard(torch.from_numpy(one)).permute(2, 0, 1) for standard, one in pairs]

    def _crop(self, index: int, rng: np.random.Generator) -> tuple[Tensor, list[FloatArray]]:
        """A crop as the student takes it, (1, 3, side, side), and what each teacher sees, (h, w, C_t)."""
        example, settings = self.dataset[index], self.settings
        scale = int(rng.integers(len(settings.scales)))
        resized, factor = self.resizer.scaled(read_image(example.path))[scale]
        height, width = resized.shape[:2]
        if min(height, width) < settings.crop:
            # Panoramas, whose long side is capped.
            resized = np.pad(
                resized, [(0, max(0, settings.crop - one)) for one in (height, width)] + [(0, 0)]
            )
            height, width = resized.shape[:2]
        left, top = (int(rng.integers(one - settings.crop + 1)) for one in (width, height))
        view = View(scale, left, top, settings.crop, bool(rng.integers(2)))
        columns, rows = view.pixels(self.network.geometry, self.cells)
        columns, rows = columns[self.inner], rows[self.inner]
        seen = [one.look(example, scale, factor, columns, rows) for one in self.teachers]
        return self.network.normalise(view.cut(resized)) / _INPUT_SCALE, seen

    def _learn(self, images: Tensor, targets: list[Tensor]) -> None:
        settings = self.settings
        warm = min(1.0, (self.step + 1) / settings.warmup)
        rate = settings.rate * warm * 0.5 * (1 + math.cos(math.pi * self.step / settings.steps))
        for optimiser in self.optimisers.values():
            optimiser.zero_grad()
            for group in optimiser.param_groups:
                group["lr"] = rate
        errors = self._errors(images, targets)
        loss = torch.stack([error.mean() for feature_levels in errors for error in feature_levels]).mean()
        if not loss.isfinite():
            raise InputError(
                f"step {self.step + 1}: the loss is not finite; give a lower rate, or more warmup"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        for optimiser in self.optimisers.values():
            optimiser.step()

    def _errors(self, images: Tensor, targets: list[Tensor]) -> list[list[Tensor]]:
        """Squared errors by teacher and tap, each (N, C_tap, h, w)."""
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.bfloat16):
            maps = self.student(images)
        errors = []
        for teacher, one, target in zip(self.teachers, maps, targets, strict=True):
            error = (one[:, :, self.inner, self.inner].float() - target).square()
            errors.append(list(error.split(teacher.parts, dim=1)))
        return errors

    @torch.no_grad()
    def _explained(self) -> tuple[tuple[float, ...], ...]:
        """Of a crop of each held-out image: 1 - squared error / squared target, whose mean is 0."""
        self.student.eval()
        errors, totals = ([[0.0] * len(one.parts) for one in self.teachers] for _ in range(2))
        for index in self.held_out:
            rng = np.random.default_rng((self.settings.seed, 3, int(index)))
            image, seen = self._standardised(*self._crop(int(index), rng))
            wrong = self._errors(image, [one[None] for one in seen])
            for number, teacher in enumerate(self.teachers):
                squares = torch.split(seen[number].square(), list(teacher.parts))
                for level, square in enumerate(squares):
                    errors[number][level] += float(wrong[number][level].sum())
                    totals[number][level] += float(square.sum())
        self.student.train()
        return tuple(
            tuple(1 - error / total for error, total in zip(*pair, strict=True))
            for pair in zip(errors, totals, strict=True)
        )

    def _weights(self) -> dict[str, Tensor]:
        """The body's, for pixels as the network takes them."""
        folded = fold_structure(self.student.layers.eval())
        self.student.layers.train(self.student.training)
        state = {name: one.detach().clone() for name, one in folded.state_dict().items()}
        first = next(name for name, one in state.items() if one.ndim == 4)
        state[first] /= _INPUT_SCALE
        return {name: one.contiguous() for name, one in state.items()}

    def _state(self) -> dict[str, NDArray[Any]]:
        arrays = {f"student.{name}": one for name, one in self.student.state_dict().items()}
        for kind, optimiser in self.optimisers.items():
            arrays |= {f"{kind}.{name}": one for name, one in optimiser_tensors(optimiser).items()}
        for number, standard in enumerate(self.standards):
            arrays |= {
                f"standard.{number}.mean": standard.mean,
                f"standard.{number}.deviation": standard.deviation,
            }
        history = [[point.step, point.seconds, *sum(point.explained, ())] for point in self.points]
        return {name: one.numpy() for name, one in arrays.items()} | {
            "history": np.array(history, np.float64),
            "step": np.array(self.step),
            "seconds": np.array(self.seconds),
        }

    def _restore(self) -> None:
        state = self.checkpoint.load()
        if state is None:
            return
        tensors = {name: torch.from_numpy(np.array(one)) for name, one in state.items()}
        self.student.load_state_dict(part(tensors, "student."))
        for kind, optimiser in self.optimisers.items():
            load_optimiser(optimiser, part(tensors, f"{kind}."))
        standards = part(tensors, "standard.")
        self.standards = [
            Standard(standards[f"{number}.mean"], standards[f"{number}.deviation"])
            for number in range(len(self.teachers))
        ]
        for step, seconds, *explained in np.asarray(state["history"]).tolist():
            feature_levels = iter(explained)
            by_teacher = tuple(
                tuple(next(feature_levels) for _ in teacher.parts) for teacher in self.teachers
            )
            self.points.append(Point(int(step), seconds, by_teacher))
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
