"""Settings of distilling; it is our own, the papers have nothing like it."""

from dataclasses import dataclass

from sppnet.common.errors import InputError


@dataclass(frozen=True)
class DistillSettings:
    """Training of a network's convolutions to reproduce the maps of stronger networks.

    All defaults come from our own trials; those with zf5 stand in its model card.

    Attributes:
        network: the network that learns; a plain chain of layers.
        teachers: each a network's name, ``name=file of weights`` or a trained detector's folder, then for
            each of ``scales`` the short side, in pixels, at which the teacher sees the same image. ``labels``
            instead: the annotated boxes, as a map of each class.
        start: a file of the network's weights to go on from; ``own``: those that come with it; empty: random.
        scales: short sides, in pixels, of the images that crops are taken from.
        crop: side of the square crops, in pixels; at most the least of ``scales``.
        border: so many cells at each border of a crop do not count: they see padding where the teacher saw
            the image.
        batch: crops in a step.
        steps: of training.
        rate: the greatest learning rate of Muon and AdamW, after ``warmup`` steps; it falls to 0 along a
            cosine.
        warmup: steps over which the rate rises.
        weight_decay: of weights, not biases.
        bfloat16: whether convolutions are computed in bfloat16; faster on processors that have it (AVX-512
            BF16, AMX), many times slower on others.
        statistics_images: a teacher's channels are brought to mean 0 and variance 1 over so many images.
        validation: part of the images that is held out, to measure how much of the teachers' maps is
            explained.
        snapshot_every: steps between validations; the weights at each are kept.
        seed: of all random choices.

    Raises:
        InputError: a value out of range, or values that do not fit each other.

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
