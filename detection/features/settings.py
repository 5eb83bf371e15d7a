"""Settings of feature extraction, in a module that does not import torch."""

from dataclasses import dataclass
from typing import Literal

from sppnet.common.errors import InputError
from sppnet.common.settings import check_choice
from sppnet.detection.features.pooling import PAPER_LEVELS
from sppnet.detection.features.projection import Projection, ScaleRule

Mode = Literal["spp", "rcnn"]


@dataclass(frozen=True)
class FeatureSettings:
    """Settings of the way from the boxes of an image to vectors.

    Attributes:
        scales: short sides of the resized image, in pixels (paper §4.1: 688 for one scale).
        max_long_side: largest long side of the resized image, in pixels; our addition, for panoramas. 0.1 %
            of VOC2007's images reach it at 688, 1 % at 1,200.
        scale_rule: the rule that chooses the scale of a proposal, if there are several scales.
        projection: the rule that projects a proposal to a window of the feature map.
        levels: bins per side of each pyramid level (paper §4.1: 6, 3, 2, 1).
        mode: ``spp``: proposals are pooled from feature maps of the image; ``rcnn``: each proposal is warped
            and passes through the network separately, and ``scales`` and the two rules are not used.
        crop, crop_padding: with ``rcnn``, the side that proposals are warped to, and the pixels of context
            on each side of it (R-CNN: 227 and 16).
        bfloat16: whether convolutions are computed in bfloat16; our addition. It is faster on processors that
            have it (AVX-512 BF16, AMX), and many times slower on others.

    Raises:
        InputError: a value is out of range, or a choice is unknown.

    Example:
        >>> FeatureSettings(scales=(480, 688)).levels
        (6, 3, 2, 1)
    """

    scales: tuple[int, ...] = (688,)
    max_long_side: int = 2500
    scale_rule: ScaleRule = "paper"
    projection: Projection = "paper"
    levels: tuple[int, ...] = PAPER_LEVELS
    mode: Mode = "spp"
    crop: int = 227
    crop_padding: int = 16
    bfloat16: bool = False

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) < 1 or self.max_long_side < max(self.scales):
            raise InputError(
                f"scales {self.scales}: give at least one, from 1 to {self.max_long_side} pixels"
            )
        if not self.levels or min(self.levels) < 1:
            raise InputError(f"levels {self.levels}: give at least one, each at least 1")
        check_choice("scale_rule", self.scale_rule, ScaleRule)
        check_choice("projection", self.projection, Projection)
        check_choice("mode", self.mode, Mode)
        if not 0 <= 2 * self.crop_padding < self.crop:
            raise InputError(
                f"crop {self.crop}, crop_padding {self.crop_padding}: leave room for the proposal"
            )
