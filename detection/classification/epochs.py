"""The epochs of pretraining: their figures, their speed, the file of their history."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from sppnet.common.files import write_json
from sppnet.data.image_folder import ImageFolder

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Epoch:
    """The figures of an epoch.

    Attributes:
        number: from 1.
        size: side of its images, pixels.
        rate: learning rate of its last step.
        loss: mean over its images, while training.
        val_loss, top1, top5: of the validation images' centre crops, the accuracies in 0 to 1; None without
            validation images. With at most 5 classes, ``top5`` is 1.
        skipped: images that could not be read, of those for training and for validation.
        images_per_second: while training, of all processes.
        waiting: part of that time in which the first process waited for a batch.
    """

    number: int
    size: int
    rate: float
    loss: float
    val_loss: float | None
    top1: float | None
    top5: float | None
    skipped: int
    images_per_second: float
    waiting: float


class Pace:
    """The speed of an epoch's training, and the time that it spends waiting for batches.

    Attributes:
        images: images learned from since `start`; the trainer's to count.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begins the first epoch; ``clock`` gives the time in seconds."""
        self._clock = clock
        self.start()

    def start(self) -> None:
        """Begins an epoch."""
        self.images = 0
        self._begun, self._waited = self._clock(), 0.0

    def waited_for(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches; the time until each comes is waiting time."""
        asked = self._clock()
        for batch in batches:
            self._waited += self._clock() - asked
            yield batch
            asked = self._clock()

    def figures(self) -> tuple[float, float]:
        """Images per second since `start`, and the part of the time spent waiting."""
        seconds = self._clock() - self._begun
        return self.images / seconds, self._waited / seconds


def write_history(path: Path, train: ImageFolder, epochs: Sequence[Epoch]) -> None:
    """Writes the epochs so far, with the images and classes that were trained on, as JSON.

    Raises:
        OSError: the disk is full.
    """
    history = {
        "images": len(train), "classes": list(train.classes), "epochs": [asdict(epoch) for epoch in epochs]
    }  # fmt: skip
    # With rates that are too high the validation loss can be infinite.
    write_json(path, history, allow_nan=True)
