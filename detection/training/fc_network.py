"""The network of fully connected layers that fine-tuning trains: fc6, fc7, fc8 with dropout."""

import math

import torch
from torch import Tensor, nn

from sppnet.detection.fc_layers import FullyConnected, as_array
from sppnet.detection.heads import SoftmaxHead
from sppnet.detection.training.finetuning_settings import FineTuningSettings

# Standard deviation of gaussian weights: paper §4.1 for fc8; usual in R-CNN and Caffe for fc6 and fc7.
_GAUSSIAN = 0.01


class FCNetwork(nn.Module):
    """Computes logits of classes and background: fc6, ReLU, dropout, fc7, ReLU, dropout, fc8.

    Attributes:
        mean, deviation: float32 (inputs,), the standardisation of vectors; 0 and 1 at first.

    Example:
        >>> net = FCNetwork(inputs=1280, classes=20, settings=FineTuningSettings(width=24))
        >>> net(torch.zeros(3, 1280)).shape
        torch.Size([3, 21])
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, inputs: int, classes: int, settings: FineTuningSettings) -> None:
        """Makes random layers, from torch's random state.

        Args:
            inputs: length of the pooled vectors.
            classes: C, the number of classes, without the background.
            settings: width, initialisation, dropout.
        """
        super().__init__()
        width = settings.width
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("deviation", torch.ones(inputs))
        self.fc6 = nn.Linear(inputs, width)
        self.fc7 = nn.Linear(width, width)
        self.fc8 = nn.Linear(width, classes + 1)
        for layer in (self.fc6, self.fc7):
            he = settings.initialisation == "he"
            nn.init.normal_(layer.weight, std=math.sqrt(2 / layer.in_features) if he else _GAUSSIAN)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.fc8.weight, std=_GAUSSIAN)
        nn.init.zeros_(self.fc8.bias)
        self.input_dropout = nn.Dropout(settings.input_dropout)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, vectors: Tensor) -> Tensor:
        """Computes logits (N, C + 1), background last, from vectors (N, inputs) times their norm factor."""
        values = self.input_dropout((vectors - self.mean) / self.deviation)
        for layer in (self.fc6, self.fc7):
            values = self.dropout(torch.relu(layer(values)))
        logits: Tensor = self.fc8(values)
        return logits

    def start_from(self, layers: FullyConnected) -> None:
        """Copies fc6, and fc7 if ``layers`` has it."""
        targets = (self.fc6, self.fc7)[: len(layers.biases)]
        with torch.no_grad():
            for target, factors, bias in zip(targets, layers.factors, layers.biases, strict=True):
                target.weight.copy_(factors[0])
                target.bias.copy_(bias)

    def layers(self, norm_factor: float) -> FullyConnected:
        """Returns fc6 and fc7 for the detector, for vectors straight from the extractor.

        They were trained on vectors times ``norm_factor``, standardised by mean and deviation. The factor and
        the standardisation are folded into fc6.
        """
        fc6 = (self.fc6.weight / self.deviation).detach()
        weights = fc6 * norm_factor, self.fc7.weight.detach()
        biases = self.fc6.bias.detach() - fc6 @ self.mean, self.fc7.bias.detach()
        return FullyConnected(
            tuple((weight.clone(),) for weight in weights), tuple(bias.clone() for bias in biases)
        )

    def head(self) -> SoftmaxHead:
        """Returns fc8 for the detector."""
        return SoftmaxHead(as_array(self.fc8.weight).copy(), as_array(self.fc8.bias).copy())

    def parameter_groups(self, settings: FineTuningSettings) -> list[dict[str, object]]:
        """Returns parameter groups: weights, which decay, and biases, which have their own learning rate."""
        weights = [layer.weight for layer in (self.fc6, self.fc7, self.fc8)]
        biases = [layer.bias for layer in (self.fc6, self.fc7, self.fc8)]
        return [
            {"params": weights, "weight_decay": settings.weight_decay, "factor": 1.0},
            {"params": biases, "weight_decay": 0.0, "factor": settings.bias_rate},
        ]
