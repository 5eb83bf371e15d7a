"""Many images at a time: same detections, same order, bad files among them."""

import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as PIL

from sppnet.common.errors import InputError
from sppnet.detection.backbones import build_network
from sppnet.detection.detector import Detector
from sppnet.detection.features.extractor import SPPExtractor
from sppnet.detection.features.parallel import one_a_core
from sppnet.detection.heads import SVMHead
from sppnet.proposals import OpenCVSelectiveSearch, SelectiveSearch


@pytest.fixture
def detector(tiny_settings):
    return make_detector("alexnet", tiny_settings)


def make_detector(network, settings):
    """A detector with random weights."""
    extractor = SPPExtractor(build_network(network, "random"), settings.features)
    weights = np.random.default_rng(0).standard_normal((2, extractor.length)).astype(np.float32)
    head = SVMHead(weights / 100, np.zeros(2, np.float32), 0.1)
    return Detector(("a", "b"), extractor, head, engine=SelectiveSearch(max_proposals=30))


@pytest.fixture
def files(tiny_voc, tmp_path):
    """Image files: the third is broken, the last does not exist."""
    images = sorted((tiny_voc / "JPEGImages").iterdir())
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    return [*images[:2], broken, *images[2:6], tmp_path / "gone.png"]


@pytest.mark.parametrize("workers", [1, 3])
def test_the_same_as_one_after_the_other(detector, files, workers):
    threads = torch.get_num_threads()
    results = list(detector.detect_all(files, workers))
    assert [file for file, _ in results] == files
    for file, result in results:
        if file.name in ("broken.png", "gone.png"):
            assert isinstance(result, InputError)
            assert file.name in str(result)
            continue
        image, detections = result
        expected = detector.detect(image)
        assert len(detections) > 0
        np.testing.assert_array_equal(detections.labels, expected.labels)
        np.testing.assert_allclose(detections.scores, expected.scores, atol=1e-4)
    assert torch.get_num_threads() == threads


def test_no_images(detector):
    assert list(detector.detect_all([])) == []


def test_a_pil_image_that_cannot_be_decoded_is_an_error_of_its_own(detector, files, tmp_path):
    cut = tmp_path / "cut.jpg"
    PIL.fromarray(np.zeros((90, 120, 3), np.uint8)).save(cut)
    cut.write_bytes(cut.read_bytes()[:-40])
    results = [result for _, result in detector.detect_all([PIL.open(cut), files[0]])]
    assert isinstance(results[0], InputError)
    assert "cut.jpg: cannot be decoded" in str(results[0])
    assert not isinstance(results[1], InputError)


def test_a_number_of_workers_below_zero_is_one_a_core(detector, files):
    assert len(list(detector.detect_all(files[:2], workers=-1))) == 2


def test_one_a_core_counts_the_allowed_cores(files, monkeypatch):
    # A single worker has all of torch's threads, several have one each.
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    threads = {number for _, number in one_a_core(lambda image: torch.get_num_threads(), files[3:7])}
    torch.set_num_threads(before)
    assert threads == {2}


@pytest.mark.parametrize("network", ["zf5", "efficientnet_lite0"])
def test_a_detector_can_be_sent_to_another_process(network, tiny_settings, files):
    """What starts a process without a fork (macOS, Windows, joblib, Dask) pickles what it sends."""
    detector = make_detector(network, tiny_settings)
    sent = pickle.loads(pickle.dumps(detector))  # noqa: S301
    expected, detections = detector.detect(files[0]), sent.detect(files[0])
    assert len(detections) > 0
    np.testing.assert_array_equal(detections.boxes, expected.boxes)
    np.testing.assert_array_equal(detections.scores, expected.scores)


def test_several_images_are_in_work_at_a_time(detector, files, monkeypatch):
    """Each of three images waits for the two others."""
    together = threading.Barrier(3, timeout=30)

    def detect(self, image):
        together.wait()
        return len(image)

    monkeypatch.setattr(Detector, "detect", detect)
    images = [file for file in files if file.name not in ("broken.png", "gone.png")]
    results = [result for _, result in detector.detect_all(images, workers=3)]
    assert all(result == len(image) for image, result in results)


def test_opencv_takes_one_image_at_a_time(detector, files, monkeypatch):
    """A single worker takes all images, whatever the caller asks for."""
    workers, threads = [], set()

    def recorded(work, images, asked):
        workers.append(asked)
        return one_a_core(work, images, asked)

    def detect(self, image):
        threads.add(threading.get_ident())
        return len(image)

    monkeypatch.setattr("sppnet.detection.detector.one_a_core", recorded)
    monkeypatch.setattr(Detector, "detect", detect)
    opencv = replace(detector, engine=OpenCVSelectiveSearch())
    assert len(list(opencv.detect_all(files, workers=3))) == len(files)
    assert workers == [1]
    assert len(threads) == 1
    list(detector.detect_all(files, workers=3))
    assert workers == [1, 3]
