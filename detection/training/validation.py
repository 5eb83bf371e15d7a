"""How well fully connected layers classify held-out windows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from sppnet.common.arrays import FloatArray, IntArray
from sppnet.common.distributed import Group
from sppnet.detection.fc_layers import log_odds

_CHUNK = 1024


@dataclass(frozen=True)
class Score:
    """One validation.

    Attributes:
        step: steps made before it.
        loss: mean cross-entropy over the windows.
        accuracy: mean over the classes, background included, of the part of their windows that is right.
        precision: mean over the classes of the average precision in telling their windows from the others.
    """

    step: int
    loss: float
    accuracy: float
    precision: float

    def merit(self, choose: Literal["loss", "accuracy", "precision"]) -> float:
        """What is to be as great as possible."""
        return -self.loss if choose == "loss" else float(getattr(self, choose))


def validate(
    net: nn.Module,
    read: Callable[[IntArray], FloatArray],
    mine: IntArray,
    labels: IntArray,
    classes: int,
    step: int,
    group: Group,
) -> Score:
    """Scores a network on windows that the processes share out.

    Args:
        net: pooled vectors to logits (N, C + 1), background last.
        read: the vectors at places in this process' file.
        mine: int64 (n,), which windows those are, in the order of the file.
        labels: int64 (N,), of all windows, 0 to C.
        classes: C.
        step: made before.
        group: the processes.
    """
    # It takes over a second to load, which no other command has to wait for.
    from sklearn.metrics import average_precision_score

    net.eval()
    logits = torch.zeros(len(labels), classes + 1)
    with torch.inference_mode():
        for start in range(0, len(mine), _CHUNK):
            part = np.arange(start, min(start + _CHUNK, len(mine)))
            logits[mine[part]] = net(torch.from_numpy(read(part)))
        group.add(logits)
        loss = nn.functional.cross_entropy(logits, torch.from_numpy(labels)).item()
    found = logits.argmax(dim=1).numpy()
    odds = log_odds(logits.numpy())
    present = np.unique(labels)
    accuracy = np.mean([(found[labels == label] == label).mean() for label in present])
    precision = [
        average_precision_score(labels == label, odds[:, label]) for label in present if label < classes
    ]
    return Score(step, loss, float(accuracy), float(np.mean(precision)) if precision else 0.0)
