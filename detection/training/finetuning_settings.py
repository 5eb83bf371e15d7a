"""Settings of the fully connected layers and their training, with the source of each constant."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from sppnet.common.errors import InputError
from sppnet.common.settings import check_choice

Inputs = Literal["scaled", "centred", "standardised"]
Initialisation = Literal["he", "gaussian"]
Optimiser = Literal["sgd", "adamw"]
Decay = Literal["steps", "cosine"]
# The figure that selects the best snapshot.
Choose = Literal["loss", "accuracy", "precision"]


@dataclass(frozen=True)
class FineTuningSettings:
    """Settings of the fully connected layers fc6, fc7 and fc8, and of their training on frozen convolutions.

    Defaults without a source are our choice. Of them only centred inputs were compared with the alternative
    on held-out proposals (VOC2007, AlexNet, 700 images); optimiser, rate, decay, dropout and steps were not.

    Attributes:
        width: number of outputs of fc6 and fc7 (paper: 4,096).
        weights: a file of weights for the start of fc6 and fc7, or of fc6 alone; empty: random weights.
            Layers from a file take pooled vectors without factor and standardisation.
        inputs: preparation of pooled vectors: ``scaled``: they are multiplied by one number; ``centred``: in
            addition, the mean over the training proposals is subtracted; ``standardised``: in addition, each
            number is divided by its standard deviation. Our addition; it is folded into fc6 at the end.
        initialisation: random weights of layers: ``he`` (normal, variance 2 / inputs), or ``gaussian``
            (standard deviation 0.01). fc8 is always gaussian (paper §4.1).
        dropout: dropout after fc6 and fc7 (released code: 0.5).
        input_dropout: dropout of the pooled vectors; our addition.
        batch: number of proposals in a step (paper §4.1: 128).
        positive_fraction: the part of a batch that are positives (paper §4.1: 0.25).
        min_positive_iou: least IoU of a positive with ground truth (paper §4.1: 0.5).
        negative_iou_range: IoU of negatives: at least the first value, below the second (paper §4.1: 0.1 and
            0.5).
        proposals_per_image: number of proposals drawn from an image at a time; ``positive_fraction`` of them
            are positives, if there are enough.
        draw_steps: new proposals are drawn after this many steps.
        disk_gb: largest size of the drawn vectors of all processes together, in 10^9 bytes; fewer proposals
            are drawn from each image if they would take more.
        flip: whether half of the proposals are taken from the mirrored image (released code).
        random_scale: whether a proposal is pooled from a random scale, if there are several (released code).
        optimiser: ``sgd`` with momentum (paper), or ``adamw``.
        rates: learning rates, in order.
        steps: number of steps for each of ``rates``.
        decay: ``steps``: the rates are used unchanged; ``cosine``: the first rate falls to 0 over all steps.
        momentum: momentum of sgd (released code: 0.9).
        weight_decay: decay of weights, not of biases (released code: 5e-4, for sgd).
        bias_rate: the learning rate of biases as a multiple of the rate of weights (released code: 2).
        validation: part of the training images that is held out to choose the snapshot. The released code
            chooses it on the test images; we do not.
        validate_every: number of steps between snapshots (released code: 2,000).
        choose: the snapshot with the least validation ``loss``, or the greatest ``accuracy`` (mean over the
            classes) or average ``precision`` of the held-out proposals.
        min_probability: the softmax head drops proposals with a probability below this.
        seed: seed of all random choices.

    Raises:
        InputError: a value is out of range, a choice is unknown, or values do not fit each other.

    Example:
        >>> settings = FineTuningSettings(rates=(1e-3, 1e-4), steps=(300, 100), decay="steps")
        >>> settings.total_steps, settings.rate(299), settings.rate(300)
        (400, 0.001, 0.0001)
    """

    width: int = 512
    weights: str = ""
    inputs: Inputs = "centred"
    initialisation: Initialisation = "he"
    dropout: float = 0.5
    input_dropout: float = 0.0
    batch: int = 128
    positive_fraction: float = 0.25
    min_positive_iou: float = 0.5
    negative_iou_range: tuple[float, float] = (0.1, 0.5)
    proposals_per_image: int = 64
    draw_steps: int = 2000
    disk_gb: float = 6.0
    flip: bool = True
    random_scale: bool = True
    optimiser: Optimiser = "adamw"
    rates: tuple[float, ...] = (3e-4,)
    steps: tuple[int, ...] = (4000,)
    decay: Decay = "cosine"
    momentum: float = 0.9
    weight_decay: float = 0.01
    bias_rate: float = 1.0
    validation: float = 0.1
    validate_every: int = 500
    choose: Choose = "precision"
    min_probability: float = 0.01
    seed: int = 6

    def __post_init__(self) -> None:
        check_choice("inputs", self.inputs, Inputs)
        check_choice("initialisation", self.initialisation, Initialisation)
        check_choice("optimiser", self.optimiser, Optimiser)
        check_choice("decay", self.decay, Decay)
        check_choice("choose", self.choose, Choose)
        for name in ("width", "batch", "proposals_per_image", "draw_steps", "validate_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give at least 1")
        for name in ("dropout", "input_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give a part, from 0 to below 1")
        for name in ("positive_fraction", "validation", "min_probability"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give a part between 0 and 1")
        for name in ("batch", "proposals_per_image"):
            if not 0 < round(getattr(self, name) * self.positive_fraction) < getattr(self, name):
                raise InputError(
                    f"{name} {getattr(self, name)} with positive_fraction {self.positive_fraction} leaves no "
                    "positives, or no negatives; give more proposals, or another part"
                )
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; it must not be negative")
        low, high = self.negative_iou_range if len(self.negative_iou_range) == 2 else (1.0, 0.0)
        if not 0 <= low < high <= self.min_positive_iou <= 1:
            raise InputError(
                f"negative_iou_range {self.negative_iou_range}, min_positive_iou {self.min_positive_iou}: "
                "give two rising values of IoU, at most min_positive_iou"
            )
        if not self.rates or len(self.rates) != len(self.steps) or min(self.steps) < 1:
            raise InputError(
                f"rates {self.rates} and steps {self.steps}: give as many steps as rates, each at least 1"
            )
        if self.decay == "cosine" and len(self.rates) > 1:
            raise InputError(f"rates {self.rates}: with decay = 'cosine' give one")
        if min(*self.rates, self.disk_gb, self.bias_rate) <= 0 or min(self.momentum, self.weight_decay) < 0:
            raise InputError(
                f"{self}: rates, disk_gb and bias_rate must be positive, "
                "momentum and weight_decay not negative"
            )

    @property
    def total_steps(self) -> int:
        """Number of steps of the whole schedule."""
        return sum(self.steps)

    @property
    def positives(self) -> int:
        """Number of positives in a batch."""
        return round(self.batch * self.positive_fraction)

    def rate(self, step: int) -> float:
        """Computes the learning rate of a step, counted from 0."""
        if self.decay == "cosine":
            return self.rates[0] * 0.5 * (1 + math.cos(math.pi * step / self.total_steps))
        for rate, steps in zip(self.rates, self.steps, strict=True):
            if step < steps:
                return rate
            step -= steps
        return self.rates[-1]


# Paper §4.1.
PAPER_FINETUNING = FineTuningSettings(
    width=4096, inputs="scaled", initialisation="gaussian", optimiser="sgd", rates=(1e-4, 1e-5),
    steps=(250_000, 50_000), decay="steps", weight_decay=5e-4, bias_rate=2.0, validate_every=2000,
    draw_steps=10_000, choose="accuracy",
)  # fmt: skip
# Released code: 30,000 steps at each of the first two rates, then the last rate up to step 200,000.
RELEASED_FINETUNING = replace(PAPER_FINETUNING, rates=(1e-3, 1e-4, 1e-5), steps=(30_000, 30_000, 140_000))
