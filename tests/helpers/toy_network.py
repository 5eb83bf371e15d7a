"""A chain of layers small enough to follow by hand."""

from collections import OrderedDict

from torch import nn


def toy_layers():
    """6 channels, stride 4: each cell sees its own 4 x 4 pixels, so nothing crosses the border of a view."""
    return nn.Sequential(
        OrderedDict(conv1=nn.Conv2d(3, 5, 4, stride=4), relu1=nn.ReLU(), conv2=nn.Conv2d(5, 6, 1))
    )
