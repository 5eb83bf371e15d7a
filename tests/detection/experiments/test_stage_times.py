"""Times of the stages of detection, on a clock that only the stages advance."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from sppnet.common.progress import quiet
from sppnet.common.stopwatch import Stopwatch
from sppnet.detection.detector import Detector
from sppnet.detection.experiments.stage_times import FC, paper_layers, time_stages
from sppnet.detection.features.extractor import PooledFeatures
from sppnet.proposals import SelectiveSearch

LENGTHS = {"resize": 1.0, "convolution": 4.0, "pooling": 2.0, "svm": 3.0, "regression": 5.0}


@pytest.fixture
def now(monkeypatch):
    """A list with the time in seconds; processor time runs twice as fast."""
    time = [0.0]
    monkeypatch.setattr("sppnet.common.stopwatch.time.perf_counter", lambda: time[0])
    monkeypatch.setattr("sppnet.common.stopwatch.time.process_time", lambda: 2 * time[0])
    return time


@dataclass
class Work:
    """Stages of known length: zero for the first image, half for the second, full for the third."""

    now: list[float]
    factor: float
    images: int = -1

    def do(self, stage):
        self.now[0] += self.factor * LENGTHS[stage] * self.images / 2


@dataclass(frozen=True, eq=False)
class WorkingExtractor:
    """An extractor that advances the clock; `Work` stands for the network."""

    network: Work
    settings: None = None
    clock: Stopwatch = field(default_factory=Stopwatch)

    def prepare(self, image):
        self.network.images += 1
        for stage in ("resize", "convolution"):
            with self.clock(stage):
                self.network.do(stage)

    def extract(self, prepared, boxes):
        with self.clock("pooling"):
            self.network.do("pooling")
        vectors = np.full((self.network.images + 1, 7), self.network.factor, np.float32)
        return PooledFeatures(vectors, np.zeros(len(boxes), np.int64))


@dataclass
class WorkingHead:
    """SVMs that advance the clock."""

    work: Work

    def score(self, vectors):
        self.work.do("svm")
        return np.zeros((len(vectors), 1), np.float32)


@dataclass
class WorkingRegressors:
    """Regressors that advance the clock."""

    work: Work

    def deltas(self, vectors):
        self.work.do("regression")
        return np.zeros((len(vectors), 1, 4), np.float32)


def working_detector(now, factor):
    work = Work(now, factor)
    extractor = WorkingExtractor(work)
    return Detector(("a",), extractor, WorkingHead(work), WorkingRegressors(work), engine=SelectiveSearch())


def test_times_are_means_over_the_images(now, tiny_test, monkeypatch):
    monkeypatch.setattr(
        "sppnet.detection.experiments.stage_times.make_extractor",
        lambda network, settings: WorkingExtractor(network),
    )
    passed = []

    def make_layers(inputs):
        assert inputs == 7

        def layers(vectors):
            """Takes a second for each row."""
            passed.append(vectors)
            now[0] += len(vectors)

        return layers

    detectors = {"a": working_detector(now, 1.0), "b": working_detector(now, 2.0)}
    boxes = [np.array([[0, 0, 20, 30]], np.float32)] * 2
    times = time_stages(detectors, tiny_test[:2], boxes, quiet, make_layers)
    # Half and full length are 0.75 on average. The layers take 2 and 3 rows.
    seconds = times["a"].seconds
    assert seconds == pytest.approx(
        {"resize or warp": 0.75, "convolution": 3, "pooling": 1.5, "SVM + NMS": 2.25,
         "box regression": 3.75, "all": 11.25, FC: 2.5}
    )  # fmt: skip
    assert times["a"].cpu_seconds == pytest.approx({name: 2 * value for name, value in seconds.items()})
    assert times["b"].seconds["convolution"] == pytest.approx(6)
    # The detectors take turns at each image; the layers take one row to warm up, and then all rows.
    assert [(len(vectors), vectors[0, 0]) for vectors in passed] == [
        (1, 1), (2, 1), (1, 2), (2, 2), (1, 1), (3, 1), (1, 2), (3, 2)
    ]  # fmt: skip
    # The detectors themselves do not change.
    for detector in detectors.values():
        assert detector.layers is None
        assert detector.clock.seconds["svm"] == 0


def test_the_layers_have_the_papers_size():
    layers = paper_layers(300)
    assert [tuple(factors[0].shape) for factors in layers.factors] == [(4096, 300), (4096, 4096)]
    outputs = layers(np.random.default_rng(0).random((50, 300), np.float32))
    # The weights are neither zero nor infinite; such values might take another time to multiply.
    assert 0.1 < outputs.mean() < 10
