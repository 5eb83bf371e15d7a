"""Validation of fully connected layers on regions of held-out images."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from sppnet.common.distributed import Group
from sppnet.detection.heads import log_odds
from sppnet.detection.training.finetuning_settings import Choose
from sppnet.detection.training.window_batches import RegionDraw

# Vectors that pass the network at a time.
_CHUNK = 1024


@dataclass(frozen=True)
class Score:
    """The figures of one validation.

    Attributes:
        step: steps made before it.
        loss: mean cross-entropy over the regions. Where it is not finite, the other figures are 0.
        accuracy: mean over the classes, background included, of the part of their regions that is right.
        precision: mean over the classes of the average precision in telling their regions from the others.

    Example:
        >>> Score(step=500, loss=0.4, accuracy=0.7, precision=0.6).merit("loss")
        -0.4
    """

    step: int
    loss: float
    accuracy: float
    precision: float

    def merit(self, choose: Choose) -> float:
        """The figure that chooses the best validation; greater is better."""
        return -self.loss if choose == "loss" else float(getattr(self, choose))


def validate(net: nn.Module, held_out: RegionDraw, step: int, group: Group) -> Score:
    """Scores a network on held-out regions, of which each process does its share.

    Args:
        net: pooled vectors to logits (N, C + 1), background last.
        held_out: the regions.
        step: steps made before.
        group: the processes.
    """
    # Imported here, as it takes over a second to load, which no other command has to wait for.
    from sklearn.metrics import average_precision_score

    net.eval()
    labels, share = held_out.labels, held_out.share
    logits = torch.zeros(len(labels), held_out.classes + 1)
    with torch.inference_mode():
        for start in range(0, len(share), _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, len(share)))
            logits[share[rows]] = net(torch.from_numpy(held_out.file.read(rows)))
        group.add(logits)
        loss = nn.functional.cross_entropy(logits, torch.from_numpy(labels)).item()
    if not math.isfinite(loss):
        # scikit-learn takes no such scores.
        return Score(step, loss, 0.0, 0.0)
    predicted = logits.argmax(dim=1).numpy()
    odds = log_odds(logits.numpy())
    present = np.unique(labels)
    accuracy = np.mean([(predicted[labels == label] == label).mean() for label in present])
    precision = [
        average_precision_score(labels == label, odds[:, label])
        for label in present
        if label < held_out.classes
    ]
    return Score(step, loss, float(accuracy), float(np.mean(precision)) if precision else 0.0)
