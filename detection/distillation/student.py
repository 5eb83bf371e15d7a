"""The form of a network while it is taught, with batch normalisations and adapters."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sppnet.detection.backbones.folding import fold_structure
from sppnet.detection.backbones.zf5 import WithinChannelLRN

# Pixels reach zf5 as -128 to 127 (released code). The student learns from a 64th of these values because
# initialisation and AdamW suit inputs of about unit variance. At the end the first weights are divided by 64,
# which gives the same network for the original pixels.
INPUT_SCALE = 64.0


class Student(nn.Module):
    """A chain of layers in training, with a 1×1 convolution for each teacher that is dropped at the end.

    Each convolution is followed by a batch normalisation, which is folded into it at the end. Normalisation
    within channels (zf5's) is left out in training: it takes nearly half of the time, and changes values of
    about 1 by a hundredth at most. It is present in validation and in use.

    Attributes:
        layers: the chain with its batch normalisations.
        adapters: the 1×1 convolutions, one per teacher.

    Example:
        >>> layers = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2))
        >>> student = Student(layers, channels=8, teacher_channels=[16, 20])
        >>> [tuple(maps.shape) for maps in student(torch.zeros(1, 3, 33, 33))]
        [(1, 16, 16, 16), (1, 20, 16, 16)]
        >>> sorted(student.weights())
        ['0.bias', '0.weight']
    """

    def __init__(
        self, layers: nn.Sequential, channels: int, teacher_channels: Sequence[int], pretrained: bool = False
    ) -> None:
        """Adds batch normalisations, and random adapters from torch's random state.

        Args:
            layers: the chain, which becomes a part of the student.
            channels: number of channels of the chain's map.
            teacher_channels: number of channels of each teacher's map.
            pretrained: whether the weights are trained, for the network's usual pixels.
        """
        super().__init__()
        self.layers = nn.Sequential()
        for name, layer in layers.named_children():
            self.layers.add_module(name, layer)
            if isinstance(layer, nn.Conv2d):
                self.layers.add_module(f"{name}_norm", nn.BatchNorm2d(layer.out_channels))
        self.adapters = nn.ModuleList(nn.Conv2d(channels, count, 1) for count in teacher_channels)
        if pretrained:
            with torch.no_grad():
                self.first_weight.mul_(INPUT_SCALE)

    @property
    def first_weight(self) -> Tensor:
        """The weights of the first convolution."""
        return next(layer.weight for layer in self.layers.modules() if isinstance(layer, nn.Conv2d))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Computes a map (N, C_t, h, w) for each teacher from normalised images (N, 3, H, W)."""
        maps = images / INPUT_SCALE
        for layer in self.layers:
            if not (self.training and isinstance(layer, WithinChannelLRN)):
                maps = layer(maps)
        return [adapter(maps) for adapter in self.adapters]

    @torch.no_grad()
    def set_norms(self, images: Tensor) -> None:
        """Sets each batch normalisation so that it changes nothing on these images.

        The network then gives the same maps as without batch normalisations.

        Args:
            images: float (N, 3, H, W), normalised.
        """
        maps = images / INPUT_SCALE
        for layer in self.layers:
            if isinstance(layer, nn.BatchNorm2d):
                variance, mean = torch.var_mean(maps, dim=(0, 2, 3), correction=0)
                layer.running_mean, layer.running_var = mean, variance
                layer.weight.copy_((variance + layer.eps).sqrt())
                layer.bias.copy_(mean)
            else:
                maps = layer(maps)

    def weights(self) -> dict[str, Tensor]:
        """Returns the chain's weights for the network's usual pixels, with batch normalisations folded in."""
        folded = fold_structure(self.layers.eval())
        self.layers.train(self.training)
        weights = {name: tensor.detach().clone() for name, tensor in folded.state_dict().items()}
        first = next(name for name, tensor in weights.items() if tensor.ndim == 4)
        weights[first] /= INPUT_SCALE
        return {name: tensor.contiguous() for name, tensor in weights.items()}
