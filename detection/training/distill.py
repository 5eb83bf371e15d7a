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

from data.images import read_image
from data.types import Dataset, InputError
from detection.features import FeatureExtractor, FeatureSettings
from detection.networks import Normalisation, build_network, weights_digest
from detection.networks.base import SequentialNetwork
from detection.networks.folding import fold_structure
from detection.networks.zf5 import WithinChannelLRN
from detection.training.checkpoint import (
    Checkpoint,
    disk_errors_named,
    load_optimiser,
    optimiser_tensors,
    part,
)
from detection.training.distill_settings import DistillSettings
from detection.training.prefetch import prefetch
from detection.training.teachers import Standard, Teacher, View, named_network, standard_of

_CHECKPOINT_SECONDS = 240.0
# Pixels reach zf5 as -128 to 127 (released code). It learns from a 64th of that, its first weights 64 times
# as large, for initialisation and AdamW suit inputs of about unit variance. With its first weights divided
# by 64 it is the same network for pixels as they come.
_INPUT_SCALE = 64.0
_WORKERS = 2

Progress = Callable[[str, int, int], None]
Kept = Callable[[int, dict[str, Tensor]], None]


@dataclass(frozen=True)
class Point:
    """How well the maps of held-out images were reproduced.

    Attributes:
        step: so many were made.
        seconds: of training so far.
        explained: by teacher and tap, the part of the variance explained, mean over the channels.
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

    def __init__(self, body: nn.Sequential, channels: int, wanted: list[int]) -> None:
        super().__init__()
        self.body = nn.Sequential()
        for name, layer in body.named_children():
            self.body.add_module(name, layer)
            if isinstance(layer, nn.Conv2d):
                self.body.add_module(f"{name}_norm", nn.BatchNorm2d(layer.out_channels))
        self.adapters = nn.ModuleList(nn.Conv2d(channels, one, 1) for one in wanted)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Float (N, 3, H, W) to a map (N, C_t, h, w) for each teacher."""
        maps = images
        for layer in self.body:
            if not (self.training and isinstance(layer, WithinChannelLRN)):
                maps = layer(maps)
        return [adapter(maps) for adapter in self.adapters]


def distill(
    dataset: Dataset,
    settings: DistillSettings,
    maps: Path,
    map_bytes: int,
    work: Path,
    progress: Progress,
    keep: Kept,
) -> tuple[SequentialNetwork, list[Point]]:
    """Trains a network's convolutions on images, whose annotations are not looked at.

    It can be stopped at any moment: run again with the same arguments, it goes on from a checkpoint that is
    at most four minutes old; every random choice follows from the seed and the step.

    Args:
        dataset: its images are learned from; some are held out to measure on.
        settings: of the training.
        maps: folder where the teachers' maps are stored.
        map_bytes: bound on it.
        work: folder for checkpoints; the caller's to remove.
        progress: called with a stage's name, steps done, steps in all.
        keep: called at each validation with the step and the weights so far.

    Returns:
        the network with what it has learned, and the validations in order.

    Raises:
        InputError: an unknown network or teacher, too few images, an image that cannot be read, a full disk.
    """
    with disk_errors_named(work), torch.random.fork_rng(devices=[]):
        return _Distilling(dataset, settings, maps, map_bytes, work, progress, keep).run()


class _Distilling:
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
        self.dataset, self.settings, self.progress, self.keep = dataset, settings, progress, keep
        network = build_network(settings.network, "random", seed=settings.seed)
        if not isinstance(network, SequentialNetwork):
            raise InputError(f"{settings.network}: only a plain chain of layers can be taught; choose zf5")
        self.network = network
        self.teachers = [Teacher(one, len(settings.scales), maps, map_bytes) for one in settings.teachers]
        self.resizer = FeatureExtractor(network, FeatureSettings(settings.scales))
        order = np.random.default_rng(settings.seed).permutation(len(dataset))
        held_out = max(1, round(settings.validation * len(dataset)))
        if len(dataset) <= held_out:
            raise InputError(
                f"{dataset.name} {dataset.split}: {len(dataset)} images are too few to learn from"
            )
        self.held_out, self.images = order[:held_out], order[held_out:]
        body = network.body
        assert isinstance(body, nn.Sequential)
        first = next(one for one in body.modules() if isinstance(one, nn.Conv2d))
        with torch.no_grad():
            first.weight /= _INPUT_SCALE
            if settings.start:
                start_from(network, settings.start)
            first.weight *= _INPUT_SCALE
        torch.manual_seed(settings.seed)
        self.student = _Student(body, network.channels, [sum(one.parts) for one in self.teachers])
        self.student.to(memory_format=torch.channels_last)
        weights = [one for one in self.student.parameters() if one.ndim > 1]
        biases = [one for one in self.student.parameters() if one.ndim == 1]
        groups: list[dict[str, Any]] = [{"params": weights}, {"params": biases, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, settings.rate, weight_decay=settings.weight_decay)
        cells = network.cells(settings.crop, settings.crop)[0]
        self.inner = slice(settings.border, cells - settings.border)
        if self.inner.stop <= self.inner.start:
            raise InputError(f"crop {settings.crop}: has {cells} cells, of which border leaves none")
        self.cells = cells
        purpose = {
            "settings": asdict(settings), "dataset": dataset.digest(), "start": weights_digest(self.student),
        }  # fmt: skip
        self.checkpoint = Checkpoint(work, purpose)
        self.step, self.seconds = 0, 0.0
        self.points: list[Point] = []
        self.standards: list[Standard] = []
        self._restore()

    def run(self) -> tuple[SequentialNetwork, list[Point]]:
        settings = self.settings
        if not self.standards:
            self.standards = [self._standard(one) for one in self.teachers]
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
        self.network.body.load_state_dict(self._weights())
        return self.network, self.points

    def _standard(self, teacher: Teacher) -> Standard:
        chosen = self.images[: self.settings.statistics_images]
        maps = []
        for done, index in enumerate(chosen):
            self.progress(f"statistics of {teacher.name}", done, len(chosen))
            # A quarter of the cells will do. A teacher's values differ with the scale: each in its turn.
            scale = done % len(self.settings.scales)
            maps.append(teacher.map(self.dataset[int(index)], scale).values[::2, ::2])
        return standard_of(maps)

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
        return self._crop(int(self.images[order[place]]), rng)

    def _crop(self, index: int, rng: np.random.Generator) -> tuple[Tensor, list[Tensor]]:
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
        seen = []
        for teacher, standard in zip(self.teachers, self.standards, strict=True):
            values = teacher.seen(teacher.map(example, scale), factor, columns, rows)
            seen.append(standard(torch.from_numpy(values)).permute(2, 0, 1))
        return self.network.normalise(view.cut(resized)) / _INPUT_SCALE, seen

    def _learn(self, images: Tensor, targets: list[Tensor]) -> None:
        settings = self.settings
        warm = min(1.0, (self.step + 1) / settings.warmup)
        rate = settings.rate * warm * 0.5 * (1 + math.cos(math.pi * self.step / settings.steps))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        errors = self._errors(images, targets)
        loss = torch.stack([error.mean() for taps in errors for error in taps]).mean()
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimiser.step()

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
            image, seen = self._crop(int(index), rng)
            wrong = self._errors(image, [one[None] for one in seen])
            for number, teacher in enumerate(self.teachers):
                squares = seen[number].square().split(teacher.parts)
                for tap, square in enumerate(squares):
                    errors[number][tap] += float(wrong[number][tap].sum())
                    totals[number][tap] += float(square.sum())
        self.student.train()
        return tuple(
            tuple(1 - error / total for error, total in zip(*pair, strict=True))
            for pair in zip(errors, totals, strict=True)
        )

    def _weights(self) -> dict[str, Tensor]:
        """The body's, for pixels as the network takes them."""
        folded = fold_structure(self.student.body.eval())
        self.student.body.train(self.student.training)
        state = {name: one.detach().clone() for name, one in folded.state_dict().items()}
        first = next(name for name, one in state.items() if one.ndim == 4)
        state[first] /= _INPUT_SCALE
        return {name: one.contiguous() for name, one in state.items()}

    def _state(self) -> dict[str, NDArray[Any]]:
        arrays = {f"student.{name}": one for name, one in self.student.state_dict().items()}
        arrays |= {f"optimiser.{name}": one for name, one in optimiser_tensors(self.optimiser).items()}
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
        load_optimiser(self.optimiser, part(tensors, "optimiser."))
        standards = part(tensors, "standard.")
        self.standards = [
            Standard(standards[f"{number}.mean"], standards[f"{number}.deviation"])
            for number in range(len(self.teachers))
        ]
        for step, seconds, *explained in np.asarray(state["history"]).tolist():
            taps = iter(explained)
            by_teacher = tuple(tuple(next(taps) for _ in teacher.parts) for teacher in self.teachers)
            self.points.append(Point(int(step), seconds, by_teacher))
        self.step, self.seconds = int(state["step"]), float(state["seconds"])


def start_from(network: SequentialNetwork, source: str) -> None:
    """Copies what fits of another chain's convolutions into a network's, one by one from the first.

    Of each, as many outputs and inputs as both have, and the middle of the larger kernel. The outputs that
    were copied begin without weights from inputs that the other does not have, so that what fits wholly gives
    what it gave; outputs beyond stay random. Differences of pixel normalisation are made up for in the first.

    Args:
        network: its convolutions are changed in place.
        source: ``name=file of weights`` of the other.

    Raises:
        InputError: the other cannot be built, or has fewer convolutions.
    """
    other = named_network(source)
    pairs = [[one for one in net.body.modules() if isinstance(one, nn.Conv2d)] for net in (network, other)]
    if len(pairs[1]) < len(pairs[0]) or not isinstance(other, SequentialNetwork):
        raise InputError(f"{source}: not a chain of {len(pairs[0])} convolutions or more to start from")
    with torch.no_grad():
        for number, (own, theirs) in enumerate(zip(*pairs, strict=False)):
            assert own.bias is not None, "chains of layers have biases"
            weight = theirs.weight
            bias = torch.zeros(len(weight)) if theirs.bias is None else theirs.bias
            if number == 0:
                weight, shift = _renormalised(weight, other.normalise, network.normalise)
                bias = bias + shift
            outputs, inputs = (min(own.weight.shape[axis], weight.shape[axis]) for axis in (0, 1))
            sides = own.weight.shape[2], weight.shape[2]
            mine, yours = (slice((one - min(sides)) // 2, (one + min(sides)) // 2) for one in sides)
            own.weight[:outputs] = 0
            own.weight[:outputs, :inputs, mine, mine] = weight[:outputs, :inputs, yours, yours]
            own.bias[:outputs] = bias[:outputs]


def _renormalised(weight: Tensor, theirs: Normalisation, own: Normalisation) -> tuple[Tensor, Tensor]:
    """A first convolution's weights for pixels normalised our way, and what its bias gains."""
    if theirs.to_bgr != own.to_bgr:
        weight = weight.flip(1)
        theirs = Normalisation(theirs.mean[::-1], theirs.std[::-1], own.to_bgr)
    mean, std, our_mean, our_std = (
        torch.tensor(one)[:, None, None] for one in (theirs.mean, theirs.std, own.mean, own.std)
    )
    return weight * our_std / std, (weight * (our_mean - mean) / std).sum(dim=(1, 2, 3))
