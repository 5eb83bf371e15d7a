"""Detection in many image files, one image a core."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from sppnet.common.arrays import Image
from sppnet.common.errors import InputError
from sppnet.data.types import Detections
from sppnet.detection.detector import Detector
from sppnet.detection.features.parallel import one_a_core
from sppnet.proposals import OpenCVSelectiveSearch

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
    return one_a_core(lambda image: (image, detector.detect(image)), files, workers)
