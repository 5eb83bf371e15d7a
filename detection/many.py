"""Detection in many images, one a core, so that none waits while another decodes or proposes."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from data.images import read_image
from data.types import Detections, Image, InputError
from detection.detector import Detector
from detection.training.prefetch import prefetch
from proposals import OpenCVSelectiveSearch

Found = tuple[Image, Detections]


def detect_many(
    detector: Detector, files: Sequence[Path], workers: int = 0
) -> Iterator[tuple[Path, Found | InputError]]:
    """What `Detector.detect` finds in each file, in their order.

    One image is mostly Selective Search, which takes one core; so each worker takes an image of its own, from
    decoding to suppression, with one thread. Convolution rounds by the number of its threads: scores may
    differ from those of `Detector.detect` in their last digits.

    Args:
        detector: it; its clock adds up the time of all the workers.
        files: image files.
        workers: images at a time; 0: one a core. OpenCV's Selective Search draws from one random state, which
            takes one.

    Yields:
        file; image and detections, or why it cannot be read.
    """
    if isinstance(detector.engine, OpenCVSelectiveSearch):
        workers = 1
    workers = min(workers or os.cpu_count() or 1, max(1, len(files)))

    def detect(file: Path) -> Found | InputError:
        try:
            image = read_image(file)
        except InputError as error:
            return error
        return image, detector.detect(image)

    # One thread each, set by each for itself; with one worker, all of them are its.
    single = (lambda: torch.set_num_threads(1)) if workers > 1 else None
    before = torch.get_num_threads()
    try:
        found = prefetch(detect, files, ahead=workers, workers=workers, initializer=single)
        yield from zip(files, found, strict=True)
    finally:
        torch.set_num_threads(before)
