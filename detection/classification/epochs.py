"""The epochs of pretraining: figures, speed, and the file of the history."""

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
        number: the number of the epoch, from 1.
        size: side of the images, in pixels.
        rate: learning rate of the last step.
        loss: mean training loss over the images.
        val_loss, top1, top5: loss and accuracies (0 to 1) on centre crops of the validation images; None
            without validation images. With at most 5 classes, ``top5`` is 1.
        skipped: number of training and validation images that could not be read.
        images_per_second: training images per second, of all processes together.
        waiting: part of the training time in which the first process waited for a batch.
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
    """Measures the speed of an epoch's training, and the time that it waits for batches.

    Attributes:
        images: training images since `start`; the trainer counts them.
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
        """Yields the batches, and counts the time until each batch comes as waiting time."""
        asked = self._clock()
        for batch in batches:
            self._waited += self._clock() - asked
            yield batch
            asked = self._clock()

    def figures(self) -> tuple[float, float]:
        """Returns the images per second since `start`, and the part of the time that was spent waiting."""
        seconds = self._clock() - self._begun
        return self.images / seconds, self._waited / seconds


def write_history(path: Path, train: ImageFolder, epochs: Sequence[Epoch]) -> None:
    """Writes the epochs so far, with the number of training images and the classes, as JSON.

    Raises:
        OSError: the disk is full.
    """
    history = {
        "images": len(train), "classes": list(train.classes), "epochs": [asdict(epoch) for epoch in epochs]
    }  # fmt: skip
    # With rates that are too high the validation loss can be infinite.
    write_json(path, history, allow_nan=True)
