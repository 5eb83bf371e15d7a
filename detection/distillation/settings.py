"""Settings of distillation, which is our own addition: the papers do not have it."""

from dataclasses import dataclass

from sppnet.common.errors import InputError


@dataclass(frozen=True)
class DistillSettings:
    """Settings of the training of a network's convolutions to reproduce the maps of stronger networks.

    All defaults come from our own trials; the trials with zf5 are described in its model card.

    Attributes:
        network: the network that learns, a plain chain of layers.
        teachers: for each teacher a network's name, ``name=file of weights`` or the folder of a trained
            detector, followed by the short side, in pixels, at which the teacher sees the image, for each of
            ``scales``. ``labels`` is a teacher, too: the annotated boxes, as a map of each class.
        start: a file of weights to start from; ``own``: the weights that come with the network; empty:
            random weights.
        scales: short sides, in pixels, of the images that crops are taken from.
        crop: side of the square crops, in pixels; at most the smallest of ``scales``.
        border: number of cells at each border of a crop that do not count: they see padding where the teacher
            sees the image.
        batch: number of crops in a step.
        steps: number of steps of the training.
        rate: the greatest learning rate of Muon and AdamW, reached after ``warmup`` steps; then it falls to 0
            along a cosine.
        warmup: number of steps in which the rate rises.
        weight_decay: decay of weights, not of biases.
        bfloat16: whether convolutions are computed in bfloat16; faster on processors that have it (AVX-512
            BF16, AMX), many times slower on others.
        statistics_images: number of images over which a teacher's channels are brought to mean 0 and
            variance 1.
        validation: part of the images that is held out, to measure the explained part of the teachers' maps.
        snapshot_every: number of steps between validations; the weights at each validation are kept.
        seed: seed of all random choices.

    Raises:
        InputError: a value is out of range, or values do not fit each other.

    Example:
        >>> DistillSettings(teachers=("alexnet 400",), scales=(344,)).crop
        336
    """

    network: str = "zf5"
    teachers: tuple[str, ...] = ("efficientnet_lite0 576 400 288",)
    start: str = ""
    scales: tuple[int, ...] = (688, 480, 344)
    crop: int = 336
    border: int = 2
    batch: int = 8
    steps: int = 2000
    rate: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.01
    bfloat16: bool = False
    statistics_images: int = 100
    validation: float = 0.02
    snapshot_every: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.teachers or not self.scales:
            raise InputError("give at least one teacher and one scale")
        for name in ("crop", "batch", "steps", "warmup", "statistics_images", "snapshot_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give at least 1")
        if min(self.scales) < self.crop:
            raise InputError(f"scales {self.scales}: give none below the crop's side, {self.crop}")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; it must not be negative")
        if self.border < 0 or not 0 < self.validation < 1 or self.rate <= 0 or self.weight_decay < 0:
            raise InputError(
                f"{self}: border and weight_decay must not be negative, rate positive, validation a part"
            )
