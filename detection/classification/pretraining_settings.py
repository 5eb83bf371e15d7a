"""Settings of a classifier's training, with the source of each constant."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from sppnet.common.errors import InputError
from sppnet.common.settings import check_choice
from sppnet.detection.classification.classifier import ClassifierSettings
from sppnet.detection.classification.views import ViewSettings

Crop = Literal["corners", "anywhere"]
SizeSchedule = Literal["single", "alternating", "random"]
Decay = Literal["steps", "cosine"]


@dataclass(frozen=True)
class PretrainingSettings:
    """Settings of a classifier and its training. Defaults are the paper's recipe for ZF-5.

    A default without a source below is our choice; the paper leaves it open.

    Attributes:
        classifier: settings of the network; its ``size`` is the side of the crops (paper §3.1: 224).
        short_side: images are resized to this short side, in pixels, before they are cropped; 0: 8/7 of
            ``classifier.size`` (§3.1: 256 for 224), as in `sppnet classify`.
        crop: ``corners``: the centre or a corner of the whole image (§3.1.1); ``anywhere``: any position.
        flip: whether half of the crops are mirrored (§3.1).
        colour: size of the random shifts along the principal axes of ImageNet's colours, as a fraction of the
            standard deviation along each axis; 0: no shifts (§3.1, after Krizhevsky et al.: 0.1).
        size_schedule: ``single``; ``alternating``: ``classifier.size`` in one epoch, ``small_size`` in the
            next (§2.3, multi-size training); ``random``: a new random size between the two in each epoch
            (§2.3).
        small_size: the crop is resized to this side, in pixels, so it shows the same content (§2.3: 180).
        epochs: number of epochs for each of ``rates``. §3.1.1: 70 in total for ZF-5, 90 for the others. The
            paper lowers the rate "when the error plateaus" and does not say when that was.
        rates: learning rates, in order (§3.1: 0.01, divided by 10 twice).
        decay: ``steps``: the rates are used unchanged; ``cosine``: the first rate falls to 0 over all steps.
        warmup_steps: number of steps in which the rate rises evenly to the first rate.
        batch: number of images in a step (Krizhevsky et al.: 128).
        momentum: momentum of SGD (Krizhevsky et al.: 0.9).
        weight_decay: decay of weights, not of biases (Krizhevsky et al.: 5e-4).
        label_smoothing: part of a target that is spread evenly over all classes (Szegedy et al. 2016: 0.1).
        average: the tested and saved weights are a moving average, which keeps this part of itself in each
            step (in the first steps less, (1 + step) / (10 + step)); 0: no average.
        seed: seed of all random choices except the random weights, which have ``classifier.seed``.

    Raises:
        InputError: a value is out of range, a choice is unknown, or values do not fit each other.

    Example:
        >>> settings = PretrainingSettings(epochs=(2, 1), rates=(0.01, 0.001))
        >>> settings.total_epochs, settings.resized_side
        (3, 256)
        >>> settings.rate(step=199, epoch_steps=100), settings.rate(step=200, epoch_steps=100)
        (0.01, 0.001)
    """

    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    short_side: int = 0
    crop: Crop = "corners"
    flip: bool = True
    colour: float = 0.1
    size_schedule: SizeSchedule = "single"
    small_size: int = 180
    epochs: tuple[int, ...] = (40, 20, 10)
    rates: tuple[float, ...] = (0.01, 0.001, 0.0001)
    decay: Decay = "steps"
    warmup_steps: int = 0
    batch: int = 128
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    average: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("crop", self.crop, Crop)
        check_choice("size_schedule", self.size_schedule, SizeSchedule)
        check_choice("decay", self.decay, Decay)
        size = self.classifier.size
        if self.resized_side < size:
            raise InputError(f"short_side {self.short_side}: give at least classifier.size, {size}")
        if self.size_schedule != "single" and not 1 <= self.small_size <= size:
            raise InputError(f"small_size {self.small_size}: give 1 to classifier.size, {size}")
        if self.size_schedule != "single" and not self.classifier.levels:
            raise InputError(
                f"size_schedule {self.size_schedule!r}: without SPP there is one size; give classifier.levels"
            )
        if not self.rates or len(self.rates) != len(self.epochs) or min(self.epochs) < 1:
            raise InputError(
                f"rates {self.rates}, epochs {self.epochs}: give as many of both, none below 1 epoch"
            )
        if self.decay == "cosine" and len(self.rates) > 1:
            raise InputError(f"rates {self.rates}: with decay = 'cosine' give one")
        if min(self.rates) <= 0 or self.batch < 1:
            raise InputError(f"rates {self.rates}, batch {self.batch}: must be positive")
        for name in ("momentum", "label_smoothing", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give a part, from 0 to below 1")
        for name in ("colour", "warmup_steps", "weight_decay", "seed"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must not be negative")

    @property
    def resized_side(self) -> int:
        """The short side, in pixels, of the resized images that crops are cut from."""
        return self.short_side or ViewSettings.proportional(self.classifier.size).scale

    @property
    def total_epochs(self) -> int:
        """Number of epochs of the whole schedule."""
        return sum(self.epochs)

    def rate(self, step: int, epoch_steps: int) -> float:
        """Computes the learning rate of a step (counted from 0), with ``epoch_steps`` steps in an epoch."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.decay == "cosine":
            done = step / (self.total_epochs * epoch_steps)
            return warm * self.rates[0] * 0.5 * (1 + math.cos(math.pi * done))
        left = step // epoch_steps
        for rate, epochs in zip(self.rates, self.epochs, strict=True):
            if left < epochs:
                return warm * rate
            left -= epochs
        return self.rates[-1]


PRETRAINING_PRESETS = {
    "paper": PretrainingSettings(),
    # Multi-size training of §2.3, and practices that came after the paper.
    "modern": PretrainingSettings(
        crop="anywhere", size_schedule="alternating", epochs=(90,), rates=(0.01,), decay="cosine",
        warmup_steps=500, label_smoothing=0.1, average=0.999,
    ),
}  # fmt: skip


def pretraining_preset(name: str, network: str) -> PretrainingSettings:
    """Returns a preset for a network; the paper trains ZF-5 for 70 epochs and the others for 90 (§3.1.1).

    Args:
        name: ``paper`` or ``modern``.
        network: as in `ClassifierSettings.network`.

    Raises:
        InputError: there is no such preset or network.

    Example:
        >>> pretraining_preset("paper", "convnet5").total_epochs
        90
    """
    if name not in PRETRAINING_PRESETS:
        raise InputError(f"no preset {name!r}; choose one of {', '.join(PRETRAINING_PRESETS)}")
    preset = PRETRAINING_PRESETS[name]
    epochs = (50, 25, 15) if name == "paper" and network != "zf5" else preset.epochs
    return replace(preset, classifier=replace(preset.classifier, network=network), epochs=epochs)
