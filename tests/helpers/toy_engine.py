"""A cheap proposal engine that workers can import, and that a test can stop at an image."""

import os
import signal
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class ToyEngine:
    """Proposes boxes that depend on an image's first pixel; each call leaves a file ``<pixel>-<pid>-*``.

    Attributes:
        folder: the folder of these files. At the images of `holds` a call waits there for the file ``go``.
        holds: first pixels of the images to wait at.
        deadly: the first pixel of an image at which the process is killed.
    """

    folder: str
    holds: frozenset[int] = frozenset()
    deadly: int = -1

    def propose(self, image):
        pixel = int(image[0, 0, 0])
        (Path(self.folder) / f"{pixel}-{os.getpid()}-{uuid.uuid4().hex}").touch()
        deadline = time.monotonic() + 120
        while pixel in self.holds and not (Path(self.folder) / "go").exists():
            if time.monotonic() > deadline:
                raise TimeoutError("the test never wrote the file go")
            time.sleep(0.02)
        if pixel == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        rng = np.random.default_rng(pixel)
        boxes = rng.integers(0, 1000, (200 + pixel, 4)).astype(np.float32)
        boxes[0] = [0, 0, image.shape[1], pixel + 1]
        return boxes

    def parameters(self):
        return {"engine": "toy", "version": os.environ.get("TOY_VERSION", "1")}
