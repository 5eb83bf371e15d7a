"""Any convolutional network of timm as a backbone: one or several taps, joined at the finest stride."""

from collections.abc import Sequence
from typing import Any, Self, cast

import timm
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from sppnet.common.errors import InputError
from sppnet.detection.backbones.base import EFFICIENTNET_LITE, IMAGENET, Network, Normalisation
from sppnet.detection.backbones.feature_levels import FeatureLevels
from sppnet.detection.backbones.geometry import Geometry

# Our names for networks that timm calls otherwise.
TIMM_NAMES = {"efficientnet_lite0": "tf_efficientnet_lite0", "efficientnet_lite2": "tf_efficientnet_lite2"}
DEFAULT_STRIDES = (16, 32)


class TimmNetwork(Network):
    """A timm network with ``features_only``.

    Images are padded to a multiple of the coarsest tap's stride: then TensorFlow-style "same" padding falls
    the same way for every size and the cells keep their places. The map is cropped to the image again.
    """

    def __init__(
        self,
        name: str,
        layers: nn.Module,
        normalise: Normalisation,
        level_geometries: list[Geometry],
        feature_levels: FeatureLevels,
        folded: bool,
    ) -> None:
        for place, part in list(layers.named_modules()):
            if type(part) is Conv2dSame:
                layers.set_submodule(place, DivisibleConv2dSame.of(part))
        super().__init__(name, layers, normalise, level_geometries, feature_levels)
        self.multiple = self.minimum = max(level.stride for level in level_geometries)
        self.folded = folded

    def cells(self, height: int, width: int) -> tuple[int, int]:
        """See `Network.cells`."""
        return -(-height // self.geometry.stride), -(-width // self.geometry.stride)

    def config(self) -> dict[str, Any]:
        """See `Network.config`."""
        return {
            "name": self.name,
            "pca": self.feature_levels.components,
            "folded": self.folded,
            "channels": list(self.feature_levels.level_channels),
            "taps": [[level.stride, level.offset, level.receptive_field] for level in self.level_geometries],
        }


class DivisibleConv2dSame(Conv2dSame):
    """timm's convolution with "same" padding, without a padded copy of a map whose sides its stride divides.

    Such padding is a cell less at the top and left than at the bottom and right where kernel minus stride is
    odd, which no convolution takes; one padded by a stride more on all sides does the same sums, and those of
    a row and a column before, which are dropped. With the copy EfficientNet-Lite0 takes 4 %
    longer at a short side of 576, 20 % at 1,200.
    """

    @classmethod
    def of(cls, other: Conv2dSame) -> Self:
        """The same convolution, with the very weights of ``other``."""
        kernel, stride, dilation = (
            cast(tuple[int, int], pair) for pair in (other.kernel_size, other.stride, other.dilation)
        )
        channels, bias = (other.in_channels, other.out_channels), other.bias is not None
        new = cls(*channels, kernel, stride, dilation=dilation, groups=other.groups, bias=bias)
        new.weight, new.bias = other.weight, other.bias
        return new

    def forward(self, x: Tensor) -> Tensor:
        """Maps, float (N, C, H, W), to maps of ceil(H / stride) × ceil(W / stride) cells."""
        spare = [side - step for side, step in zip(self.kernel_size, self.stride, strict=True)]
        divisible = not any(side % step for side, step in zip(x.shape[2:], self.stride, strict=True))
        if not divisible or self.dilation != (1, 1) or any(one < 0 or one % 2 == 0 for one in spare):
            return cast(Tensor, super().forward(x))  # type: ignore[no-untyped-call]
        padding = [one // 2 + step for one, step in zip(spare, self.stride, strict=True)]
        maps = F.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
        return maps[:, :, 1:, 1:]


def timm_name(name: str) -> str:
    """timm's name of a network.

    Raises:
        InputError: timm has none of that name; the message gives the nearest ones.
    """
    known = TIMM_NAMES.get(name, name)
    if not timm.is_model(known.split(".")[0]):
        near = timm.list_models(f"*{name}*")[:5]
        hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models()"
        raise InputError(f"unknown network {name!r}: not zf5, alexnet, vgg16 or one of timm's; {hint}")
    return known


def timm_layers(name: str, strides: Sequence[int] | None, pretrained: bool = False) -> nn.Module:
    """Creates a timm network that returns the maps of the given strides, finest first.

    Raises:
        InputError: timm has no such network or cannot tap it, or it has no map of such a stride.
    """
    known = timm_name(name)
    try:
        layers = timm.create_model(known, features_only=True)
        available = [int(one) for one in layers.feature_info.reduction()]  # type: ignore[operator,union-attr]
        wanted = list(strides or [one for one in DEFAULT_STRIDES if one in available] or available[-1:])
        missing = [one for one in wanted if one not in available]
        if missing:
            raise InputError(f"{name}: no map of stride {missing[0]}; it has strides {available}")
        # The last of several maps of one stride: the deepest.
        indices = [len(available) - 1 - available[::-1].index(one) for one in sorted(set(wanted))]
        layers = timm.create_model(known, features_only=True, out_indices=indices, pretrained=pretrained)
    except (AssertionError, AttributeError, RuntimeError, TypeError) as error:
        raise InputError(f"{name}: take another network; timm cannot tap this one ({error})") from error
    return layers.eval()


def trim(layers: nn.Module) -> None:
    """Drops the blocks after the last tap, which timm's EfficientNets would compute in vain."""
    kind, _, number = layers.feature_info.module_name()[-1].partition(".")  # type: ignore[operator,union-attr]
    blocks = getattr(layers, "blocks", None)
    if kind == "blocks" and number.isdigit() and isinstance(blocks, nn.Sequential):
        layers.blocks = blocks[: int(number) + 1]


def timm_normalisation(name: str) -> Normalisation:
    """The preprocessing that timm's weights of this network were trained with."""
    if name in TIMM_NAMES:
        return EFFICIENTNET_LITE
    config = timm.get_pretrained_cfg(timm_name(name))
    if config is None:
        return IMAGENET
    mean, std = (tuple(255 * value for value in values) for values in (config.mean, config.std))
    return Normalisation(mean, std)  # type: ignore[arg-type]
