"""The paper's other networks (SPP-net, table 1), up to the ReLU of their last convolution.

The table gives filters, strides, pooling and the size of each map of a 224 × 224 image. It does not give the
padding, which is "adjusted to produce the expected output feature map size". Pooling rounds down. For local
response normalisation the paper refers to the original networks. Here it is AlexNet's, across channels, with
the constants of cuda-convnet and Caffe, which the paper's training is based on.
"""

from collections import OrderedDict

from torch import nn


def convnet5_layers() -> nn.Sequential:
    """Makes Convnet*-5: AlexNet in one column, with pooling after conv2 and conv3, not conv1 and conv2."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 96, 11, stride=4, padding=2),
            relu1=_relu(),
            norm1=_lrn(),
            conv2=nn.Conv2d(96, 256, 5, padding=2),
            relu2=_relu(),
            norm2=_lrn(),
            pool2=nn.MaxPool2d(3, stride=2),
            conv3=nn.Conv2d(256, 384, 3, padding=1),
            relu3=_relu(),
            pool3=nn.MaxPool2d(3, stride=2),
            conv4=nn.Conv2d(384, 384, 3, padding=1),
            relu4=_relu(),
            conv5=nn.Conv2d(384, 256, 3, padding=1),
            relu5=_relu(),
        )
    )


def overfeat5_layers() -> nn.Sequential:
    """Makes Overfeat-5, with five convolution layers."""
    return _overfeat(5)


def overfeat7_layers() -> nn.Sequential:
    """Makes Overfeat-7, with seven convolution layers; conv6 and conv7 are like conv3 to conv5."""
    return _overfeat(7)


def _overfeat(convolutions: int) -> nn.Sequential:
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(3, 96, 7, stride=2),
        relu1=_relu(),
        pool1=nn.MaxPool2d(3, stride=3),
        norm1=_lrn(),
        conv2=nn.Conv2d(96, 256, 5, padding=2),
        relu2=_relu(),
        pool2=nn.MaxPool2d(2, stride=2),
    )
    channels = 256
    for number in range(3, convolutions + 1):
        layers[f"conv{number}"] = nn.Conv2d(channels, 512, 3, padding=1)
        layers[f"relu{number}"] = _relu()
        channels = 512
    return nn.Sequential(layers)


def _relu() -> nn.ReLU:
    return nn.ReLU(inplace=True)


def _lrn() -> nn.LocalResponseNorm:
    return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
