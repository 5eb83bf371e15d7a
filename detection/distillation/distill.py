"""Trains a network to reproduce the feature maps of stronger networks, from images alone."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sppnet.common.checkpoint import disk_errors_named
from sppnet.common.errors import InputError
from sppnet.common.files import json_digest
from sppnet.common.progress import Progress
from sppnet.common.resumable import CHECKPOINT_SECONDS, ResumableLoop
from sppnet.data.types import Dataset
from sppnet.detection.backbones import build_network, weights_digest
from sppnet.detection.backbones.sequential import SequentialNetwork
from sppnet.detection.backbones.weights import starting_weights
from sppnet.detection.distillation.crops import CropSampler
from sppnet.detection.distillation.muon import Muon
from sppnet.detection.distillation.settings import DistillSettings
from sppnet.detection.distillation.student import Student
from sppnet.detection.distillation.teachers import LABELS, Labels, Teacher, source_digest, split_teacher
from sppnet.proposals import image_key

# Called with the number of steps made so far, and the weights at that step.
Keep = Callable[[int, dict[str, Tensor]], object]


@dataclass(frozen=True)
class Point:
    """The figures of a validation.

    Attributes:
        step: number of steps before the validation.
        seconds: training time so far, in seconds.
        explained: for each teacher and each of its feature levels, the explained part of the variance of the
            held-out images' maps, over all channels together.
    """

    step: int
    seconds: float
    explained: tuple[tuple[float, ...], ...]


def sources_digests(settings: DistillSettings) -> list[str]:
    """Computes the `source_digest` of each teacher; the settings name files whose content may change."""
    return [source_digest(split_teacher(text, len(settings.scales))[0]) for text in settings.teachers]


def learned_digest(dataset: Dataset, settings: DistillSettings) -> str:
    """Computes a SHA-256 over the images, and over the annotations if these are a teacher."""
    images = {example.image_id: image_key(example).image_digest for example in dataset}
    annotations = dataset.digest() if LABELS in settings.teachers else ""
    return json_digest({"images": images, "annotations": annotations})


class Distilling:
    """Trains a network's convolutions to reproduce its teachers' maps.

    The training can be stopped at any moment; a new `Distilling` with the same arguments continues from the
    last checkpoint. Every random choice follows from the seed and the step.

    Attributes:
        student: the network in training.
        crops: the crops that it learns from.
    """

    def __init__(
        self,
        dataset: Dataset,
        settings: DistillSettings,
        maps: Path,
        map_bytes: int,
        work: Path,
        progress: Progress,
        keep: Keep,
        *,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
    ) -> None:
        """Builds student and teachers; computes and writes nothing yet.

        Args:
            dataset: the images to learn from; some of them are held out to measure on. The annotations are
                used only if ``labels`` is among the teachers.
            settings: the settings of the training.
            maps: folder where the teachers' maps are stored.
            map_bytes: largest size of that folder, in bytes.
            work: folder for checkpoints; the caller removes it.
            progress: called with a stage's name, the steps done, and the steps in total.
            keep: called at each validation with the step and the weights.
            checkpoint_seconds: time between two checkpoints.

        Raises:
            InputError: a network or teacher is unknown, the network is not a plain chain, there are too few
                images, or the border covers the whole crop.
        """
        self.settings, self.work, self.progress, self.keep = settings, work, progress, keep
        self.network, layers = _chain(settings)
        self.teachers = [
            Labels(len(dataset.classes))
            if text == LABELS
            else Teacher(text, len(settings.scales), maps, map_bytes)
            for text in settings.teachers
        ]
        self.crops = CropSampler(dataset, settings, self.network, self.teachers)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.student = Student(
                layers,
                self.network.channels,
                [sum(teacher.level_channels) for teacher in self.teachers],
                pretrained=bool(settings.start),
            )
        self.student.to(memory_format=torch.channels_last)
        self.optimisers = _optimisers(self.student, settings)
        purpose = {
            "settings": asdict(settings), "dataset": learned_digest(dataset, settings),
            "start": weights_digest(self.student), "teachers": sources_digests(settings),
        }  # fmt: skip
        state = {"student": self.student, "standards": self.crops.standards} | self.optimisers
        self.loop = ResumableLoop(work, purpose, state, Point, checkpoint_seconds=checkpoint_seconds)

    def run(self) -> tuple[SequentialNetwork, list[Point]]:
        """Trains, or continues a training that was stopped.

        Returns:
            the network with its trained weights, and the validations in order.

        Raises:
            InputError: an image cannot be read, a loss is not finite, or the disk is full.
        """
        settings = self.settings
        with disk_errors_named(self.work):
            if self.loop.step == 0:
                self._prepare()
            self.student.train()
            self.loop.run(
                self.crops.batches(self.loop.step), self._learn, settings.steps,
                validate=self._validate, validate_every=settings.snapshot_every,
                stage="distilling", progress=self.progress,
            )  # fmt: skip
        self.network.layers.load_state_dict(self.student.weights())
        return self.network, self.loop.history

    def _prepare(self) -> None:
        self.crops.fit_standards(self.progress)
        if self.settings.start:
            numbers = range(2 * self.settings.batch)
            self.student.set_norms(torch.cat([self.crops.sample(number)[0] for number in numbers]))

    def _learn(self, batch: tuple[Tensor, list[Tensor]]) -> None:
        settings, step = self.settings, self.loop.step
        warm = min(1.0, (step + 1) / settings.warmup)
        rate = settings.rate * warm * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        for optimiser in self.optimisers.values():
            optimiser.zero_grad()
            for group in optimiser.param_groups:
                group["lr"] = rate
        errors = self._errors(*batch)
        loss = torch.stack([error.mean() for levels in errors for error in levels]).mean()
        if not loss.isfinite():
            raise InputError(f"step {step + 1}: the loss is not finite; give a lower rate, or more warmup")
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        for optimiser in self.optimisers.values():
            optimiser.step()

    def _errors(self, images: Tensor, targets: list[Tensor]) -> list[list[Tensor]]:
        """Computes squared errors by teacher and feature level, each (N, C_level, h, w)."""
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.bfloat16):
            maps = self.student(images)
        inner = self.crops.inner
        errors = []
        for teacher, values, target in zip(self.teachers, maps, targets, strict=True):
            error = (values[:, :, inner, inner].float() - target).square()
            errors.append(list(error.split(teacher.level_channels, dim=1)))
        return errors

    def _validate(self) -> None:
        self.loop.history.append(Point(self.loop.step, self.loop.seconds, self._explained()))
        self.keep(self.loop.step, self.student.weights())

    @torch.no_grad()
    def _explained(self) -> tuple[tuple[float, ...], ...]:
        """Computes 1 - squared error / squared target (of mean 0) on a crop of each held-out image."""
        self.student.eval()
        errors = [[0.0] * len(teacher.level_channels) for teacher in self.teachers]
        totals = [[0.0] * len(teacher.level_channels) for teacher in self.teachers]
        for index in self.crops.held_out:
            image, targets = self.crops.held_out_sample(int(index))
            squared_errors = self._errors(image, [target[None] for target in targets])
            for number, teacher in enumerate(self.teachers):
                squares = torch.split(targets[number].square(), list(teacher.level_channels))
                for level, square in enumerate(squares):
                    errors[number][level] += float(squared_errors[number][level].sum())
                    totals[number][level] += float(square.sum())
        self.student.train()
        return tuple(
            tuple(1 - error / total for error, total in zip(level_errors, level_totals, strict=True))
            for level_errors, level_totals in zip(errors, totals, strict=True)
        )


def _chain(settings: DistillSettings) -> tuple[SequentialNetwork, nn.Sequential]:
    """Builds the network that learns; returns it and its layers."""
    network = build_network(settings.network, starting_weights(settings.start), seed=settings.seed)
    layers = network.layers
    if (
        not isinstance(network, SequentialNetwork)
        or not isinstance(layers, nn.Sequential)
        or not any(isinstance(layer, nn.Conv2d) for layer in layers)
    ):
        raise InputError(f"{settings.network}: only a plain chain of layers can be taught; choose zf5")
    return network, layers


def _optimisers(student: Student, settings: DistillSettings) -> dict[str, torch.optim.Optimizer]:
    """Makes Muon for the kernels, and AdamW for the first convolution, the adapters and all biases."""
    first = student.first_weight
    kernels = [weight for weight in student.layers.parameters() if weight.ndim > 1 and weight is not first]
    adamw_weights = [first, *(weight for weight in student.adapters.parameters() if weight.ndim > 1)]
    biases = [parameter for parameter in student.parameters() if parameter.ndim == 1]
    groups: list[dict[str, Any]] = [{"params": adamw_weights}, {"params": biases, "weight_decay": 0.0}]
    return {
        "muon": Muon(kernels, settings.rate, weight_decay=settings.weight_decay),
        "adamw": torch.optim.AdamW(groups, settings.rate, weight_decay=settings.weight_decay),
    }
