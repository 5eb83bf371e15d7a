"""Measures the time of each stage of detection, for several detectors on the same images."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from sppnet.common.arrays import FloatArray
from sppnet.common.progress import Progress
from sppnet.common.stopwatch import Stopwatch
from sppnet.data.types import Example
from sppnet.detection.detector import Detector
from sppnet.detection.fc_layers import FullyConnected
from sppnet.detection.features.rcnn import make_extractor

FC = "fc6, fc7 of width 4,096 (time only)"
# SPP-net §3.1.1.
_FC_WIDTH = 4096
# Proposals that are scored before the clock runs.
_WARM_UP_PROPOSALS = 40

Layers = Callable[[FloatArray], object]


@dataclass(frozen=True, eq=False)
class StageTimes:
    """Mean time an image of each stage of a detector, in seconds.

    Attributes:
        seconds: wall time by stage; ``all`` is that of the whole, without decoding and proposals. `FC` is no
            part of it.
        cpu_seconds: likewise, processor time of all threads: on a busy machine the fairer figure.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)


def paper_layers(inputs: int) -> FullyConnected:
    """fc6 and fc7 of the paper's width with random weights: 0.3 GB on AlexNet's vectors of 12,800 numbers.

    Args:
        inputs: numbers in a vector.
    """
    generator = torch.Generator().manual_seed(0)
    weights = [
        # By He et al.: numbers of a size that a real layer's have.
        torch.randn(_FC_WIDTH, length, generator=generator).mul_(math.sqrt(2 / length))
        for length in (inputs, _FC_WIDTH)
    ]
    return FullyConnected(tuple((matrix,) for matrix in weights), (torch.zeros(_FC_WIDTH),) * 2)


def time_stages(
    detectors: Mapping[str, Detector],
    examples: Sequence[Example],
    proposals: Sequence[FloatArray],
    progress: Progress,
    make_layers: Callable[[int], Layers] = paper_layers,
) -> dict[str, StageTimes]:
    """Measures the mean time an image of each detector's stages.

    All run in one process and with the same threads. The detectors take turns at every image, so that other
    work of the machine slows all of them alike.

    The detectors score pooled vectors; the paper's networks pass them through fc6 and fc7 first. The time
    of these is measured beside them (`FC`): layers with random weights, on the vectors that the detector has
    just pooled, one for each distinct window. The time does not depend on the weights.

    Args:
        detectors: by name; without fully connected layers.
        examples: the images.
        proposals: boxes of each image, float32 (N, 4), xyxy, pixel edges.
        progress: called with the stage's name, images done, images in all.
        make_layers: makes the fully connected layers to time, for vectors of a length.

    Returns:
        the times by the detectors' names.
    """
    for detector in detectors.values():
        # Compiles the kernels, or loads them from numba's cache.
        detector.detect(examples[0].path, proposals[0][:_WARM_UP_PROPOSALS])
    times = {name: StageTimes() for name in detectors}
    for done, (example, boxes) in enumerate(zip(examples, proposals, strict=True)):
        progress("times", done, len(examples))
        image = example.read()
        for name, detector in detectors.items():
            # A new extractor, because its clock has the times of earlier images.
            extractor = make_extractor(detector.extractor.network, detector.extractor.settings)
            recorder = _Recorder((), ())
            timed = replace(detector, extractor=extractor, layers=recorder, clock=Stopwatch())
            whole, connected = Stopwatch(), Stopwatch()
            with whole("all"):
                timed.detect(image, boxes)
            _time_layers(connected, recorder.vectors.pop(), make_layers)
            for kind in ("seconds", "cpu_seconds"):
                inner, outer = getattr(extractor.clock, kind), getattr(timed.clock, kind)
                stages = {
                    # R-CNN passes none of these where an image has no proposals.
                    "resize or warp": inner.get("resize", 0.0),
                    "convolution": inner.get("convolution", 0.0),
                    "pooling": inner.get("pooling", 0.0),
                    "SVM + NMS": outer["svm"] + outer["nms"],
                    "box regression": outer.get("regression", 0.0),
                    "all": getattr(whole, kind)["all"],
                    FC: getattr(connected, kind)["fc"],
                }
                sums = getattr(times[name], kind)
                for stage, value in stages.items():
                    sums[stage] = sums.get(stage, 0.0) + value / len(examples)
    progress("times", len(examples), len(examples))
    return times


@dataclass(frozen=True, eq=False)
class _Recorder(FullyConnected):
    """Stands where a detector has layers: hands vectors on as they come, and keeps them.

    So R-CNN's vectors need not be computed twice.
    """

    vectors: list[FloatArray] = field(default_factory=list)

    def __call__(self, features: FloatArray) -> FloatArray:
        self.vectors.append(features)
        return features


def _time_layers(clock: Stopwatch, features: FloatArray, make_layers: Callable[[int], Layers]) -> None:
    """Adds the time of layers on vectors (N, d) to the stage ``fc``; the layers are freed afterwards."""
    layers = make_layers(features.shape[1])
    # Not timed: loading the library.
    layers(features[:1])
    with clock("fc"):
        layers(features)
