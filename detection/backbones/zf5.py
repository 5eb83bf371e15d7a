"""The layers of ZF-5 as released with SPP-net (`model-defs/Zeiler_conv5.prototxt`), up to conv5."""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn


class WithinChannelLRN(nn.Module):
    """Caffe's local response normalisation with ``norm_region: WITHIN_CHANNEL``.

    Each value is divided by (1 + alpha · m) ** 0.75, where m is the mean of the squared values in the size ×
    size cells around it in its channel. Cells beyond the border are zero and count in the mean. 0.75 is
    Caffe's default and the value of the released prototxt. `torch.nn.LocalResponseNorm` is another layer: it
    sums across channels.
    """

    def __init__(self, size: int, alpha: float) -> None:
        super().__init__()
        self.size, self.alpha = size, alpha

    def forward(self, x: Tensor) -> Tensor:
        """Normalises float (N, C, H, W) to the same shape."""
        mean = F.avg_pool2d(x * x, self.size, stride=1, padding=self.size // 2, count_include_pad=True)
        # In place, because the maps of conv1 are so large that allocation would take half of the time.
        root = mean.mul_(self.alpha).add_(1).rsqrt_()
        return (root * root.sqrt()).mul_(x)  # This takes a fraction of the time of ``pow``.

    def extra_repr(self) -> str:
        """Returns the settings as text, for ``print``."""
        return f"size={self.size}, alpha={self.alpha}"


def zf5_layers() -> nn.Sequential:
    """Makes conv1 to relu5 under Caffe's layer names; all constants are from the released prototxt."""

    def lrn() -> WithinChannelLRN:
        return WithinChannelLRN(size=3, alpha=5e-5)

    def pool() -> nn.MaxPool2d:
        return nn.MaxPool2d(3, stride=2, ceil_mode=True)

    def relu() -> nn.ReLU:
        return nn.ReLU(inplace=True)

    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 96, 7, stride=2, padding=1),
            relu1=relu(),
            norm1=lrn(),
            pool1=pool(),
            conv2=nn.Conv2d(96, 256, 5, stride=2),
            relu2=relu(),
            norm2=lrn(),
            pool2=pool(),
            conv3=nn.Conv2d(256, 384, 3, padding=1),
            relu3=relu(),
            conv4=nn.Conv2d(384, 384, 3, padding=1),
            relu4=relu(),
            conv5=nn.Conv2d(384, 256, 3, padding=1),
            relu5=relu(),
        )
    )
