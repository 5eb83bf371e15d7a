"""Many images at a time: the same detections in the same order, bad files among them."""

import threading
import time

import numpy as np
import pytest
import torch

from sppnet.common.errors import InputError
from sppnet.common.prefetch import prefetch
from sppnet.common.stopwatch import Stopwatch
from sppnet.detection.backbones import build_network
from sppnet.detection.batch import detect_many
from sppnet.detection.detector import Detector
from sppnet.detection.features.extractor import FeatureExtractor
from sppnet.proposals import OpenCVSelectiveSearch, SelectiveSearch
from sppnet.svm import LinearSVMs


@pytest.fixture
def detector(tiny_settings):
    network = build_network("alexnet", "random")
    extractor = FeatureExtractor(network, tiny_settings.features)
    weights = np.random.default_rng(0).standard_normal((2, extractor.length)).astype(np.float32)
    svms = LinearSVMs(weights / 100, np.zeros(2, np.float32), 0.1)
    return Detector(("a", "b"), extractor, svms, None, None, SelectiveSearch(max_proposals=30))


@pytest.fixture
def files(tiny_voc, tmp_path):
    """Images, the third of them broken."""
    found = sorted((tiny_voc / "JPEGImages").iterdir())
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    return [*found[:2], broken, *found[2:], tmp_path / "gone.png"]


@pytest.mark.parametrize("workers", [1, 3])
def test_the_same_as_one_after_the_other(detector, files, workers):
    threads = torch.get_num_threads()
    results = list(detect_many(detector, files, workers))
    assert [file for file, _ in results] == files
    for file, result in results:
        if file.name in ("broken.png", "gone.png"):
            assert isinstance(result, InputError)
            assert file.name in str(result)
            continue
        image, found = result
        expected = detector.detect(image)
        assert len(found) > 0
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    assert torch.get_num_threads() == threads


def test_nothing(detector):
    assert list(detect_many(detector, [])) == []


def peak_of(detector, files, monkeypatch, workers):
    """How many images were in work at a time."""
    lock, now, peak = threading.Lock(), [0], [0]

    def slow(image, boxes=None, maps=None):
        with lock:
            now[0] += 1
            peak[0] = max(peak[0], now[0])
        time.sleep(0.05)
        with lock:
            now[0] -= 1
        return len(image)

    monkeypatch.setattr(detector, "detect", slow)
    results = [result for _, result in detect_many(detector, files, workers)]
    assert all(found == len(image) for image, found in (one for one in results if isinstance(one, tuple)))
    return peak[0]


def test_images_overlap(detector, files, monkeypatch):
    assert peak_of(detector, files, monkeypatch, 3) == 3


def test_opencv_takes_one_at_a_time(detector, files, monkeypatch):
    detector.engine = OpenCVSelectiveSearch()
    assert peak_of(detector, files, monkeypatch, 3) == 1


def test_prefetch_with_workers_keeps_order_and_raises_in_place():
    def work(item):
        time.sleep(0.002 * (7 - item))
        if item == 5:
            raise ValueError("five")
        return item

    assert list(prefetch(work, range(4), workers=4)) == [0, 1, 2, 3]
    results = prefetch(work, range(4, 8), workers=4)
    assert next(results) == 4
    with pytest.raises(ValueError, match="five"):
        next(results)


class SlowToRead(dict):
    """Between reading a value and writing it back, other threads get their turn."""

    def get(self, key, default):
        value = super().get(key, default)
        time.sleep(0.002)
        return value


def test_a_clock_that_threads_share_loses_nothing(monkeypatch):
    monkeypatch.setattr("sppnet.common.stopwatch.time.perf_counter", iter(range(10**6)).__next__)
    clock = Stopwatch()
    clock.seconds = SlowToRead()

    def run():
        for _ in range(5):
            with clock("stage"):
                pass

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Every stage lasts at least one tick.
    assert clock.seconds["stage"] >= 20
