"""Detects in thousands of photos: memory must stay as it is after the first of them."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from outcome import Outcome
from scenes import scene

from sppnet.common.memory import give_back
from sppnet.detection.detector import Detector

# Of the memory after the first images.
GROWTH = 1.05
_BATCH = 50
_FILES = 100


def soak(detector: Detector, folder: Path, photos: int, sizes: int) -> list[Outcome]:
    """Detects in photos, many of them again, and in images of as many sizes.

    Args:
        detector: a small one.
        folder: for the photos.
        photos: number of photos; memory is compared after a twentieth of them.
        sizes: number of images, each of another size.
    """
    files = [folder / f"{number:03d}.jpg" for number in range(min(_FILES, photos))]
    for number, file in enumerate(files):
        file.write_bytes(cv2.imencode(".jpg", scene(number, 40, 56, 4))[1].tobytes())

    def photo(number: int) -> Path:
        return files[number % len(files)]

    def image(number: int) -> Any:
        # 40 heights by as many widths as are needed; the step of 7 mixes the heights.
        return scene(0, 24 + number * 7 % 40, 24 + number // 40, 2)

    return [
        _run("soak: photos", detector, [photo(number) for number in range(photos)]),
        _run("soak: sizes", detector, range(sizes), image),
    ]


def _run(
    kind: str, detector: Detector, items: Sequence[Any], make: Callable[[Any], Any] = lambda item: item
) -> Outcome:
    outcome = Outcome(kind)
    first, most = 0, 0
    for start in range(0, len(items), _BATCH):
        images = [make(item) for item in items[start : start + _BATCH]]
        finite = all(np.isfinite(found.boxes).all() for found in detector.predict(images, workers=1))
        now = _memory()
        if not first or start + len(images) <= len(items) // 20:
            first = now
        most = max(most, now)
        loss = "" if finite else f"{kind}: a box is not finite"
        if now > GROWTH * first:
            loss = f"{kind}: memory grows from {first / 1e6:.0f} to {now / 1e6:.0f} MB"
        outcome.count(loss, len(images))
    outcome.note = f"{first / 1e6:.0f} MB after the first, at most {most / 1e6:.0f} MB"
    return outcome


def _memory() -> int:
    # A leak must not hide in what earlier work has freed.
    give_back()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
