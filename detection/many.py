"""Many images, one a core, so that none waits while another decodes or proposes."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from data.images import read_image
from data.types import Detections, Image, InputError
from detection.detector import Detector
from detection.training.prefetch import prefetch
from proposals import OpenCVSelectiveSearch

Found = tuple[Image, Detections]
Result = TypeVar("Result")


def one_a_core(
    work: Callable[[Image], Result], files: Sequence[Path], workers: int = 0
) -> Iterator[tuple[Path, Result | InputError]]:
    """Decodes each file and does some work on the image, each core on an image of its own with one thread.

    Args:
        work: safe to call at the same time; where it raises an `InputError`, the file's name goes before it.
        files: image files.
        workers: images at a time; 0: one a core. With one worker, all of torch's threads are its.

    Yields:
        file; the work's result, or why there is none; in the order of the files.
    """
    workers = min(workers or os.cpu_count() or 1, max(1, len(files)))

    def do(file: Path) -> Result | InputError:
        try:
            image = read_image(file)
        except InputError as error:
            return error
        try:
            return work(image)
        except InputError as error:
            return InputError(f"{file}: {error}")

    # One thread each, set by each for itself; with one worker, all of them are its.
    single = (lambda: torch.set_num_threads(1)) if workers > 1 else None
    before = torch.get_num_threads()
    try:
        results = prefetch(do, files, ahead=workers, workers=workers, initializer=single)
        yield from zip(files, results, strict=True)
    finally:
        torch.set_num_threads(before)


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
    return one_a_core(lambda image: (image, detector.detect(image)), files, workers)
