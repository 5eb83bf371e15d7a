"""Fixtures: a data set small enough to train on in seconds, settings for it, a working folder."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from sppnet.cli.terminal import console
from sppnet.data import Dataset, Example, load_voc, write_voc
from sppnet.detection.features.settings import FeatureSettings
from sppnet.detection.training.presets import PRESETS, NetworkSettings, RunSettings
from sppnet.proposals import SelectiveSearch

_SIZES = {"train": 6, "test": 3}
_HEIGHT, _WIDTH = 80, 110
_COLOURS = {"square": (220, 60, 50), "bar": (40, 90, 210)}


def _draw(rng):
    """Draws a textured square and a textured wide bar on noise; returns the image and their boxes."""
    image = rng.integers(90, 130, (_HEIGHT, _WIDTH, 3))
    boxes = []
    for name, (width, height) in (("square", (32, 32)), ("bar", (44, 22))):
        low = 0 if name == "square" else 58
        left, top = rng.integers(low, low + 55 - min(width, 50)), rng.integers(0, _HEIGHT - height)
        texture = np.array(_COLOURS[name]) + rng.integers(-25, 26, (height, width, 1))
        image[top : top + height, left : left + width] = texture[:, : _WIDTH - left]
        boxes.append((left, top, min(left + width, _WIDTH), top + height))
    return image.clip(0, 255).astype(np.uint8), np.array(boxes, np.float32)


def write_tiny_voc(folder):
    """Writes a data set in VOC's layout: 6 training and 3 test images of 110 x 80 with 2 classes."""
    images = folder / "JPEGImages"
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, (split, count) in enumerate(_SIZES.items()):
        examples = []
        for index in range(count):
            image, boxes = _draw(rng)
            path = images / f"{number}{index:03d}.png"
            cv2.imwrite(str(path), image[:, :, ::-1])
            flags = np.array([index == 1, False])
            examples.append(
                Example(path.stem, path, _WIDTH, _HEIGHT, boxes, np.array([1, 0]), flags, np.zeros(2, bool))
            )
        write_voc(Dataset("tiny", split, ("bar", "square"), tuple(examples)), folder)
    return folder


@pytest.fixture(scope="session")
def tiny_voc(tmp_path_factory):
    """The folder of `write_tiny_voc`."""
    return write_tiny_voc(tmp_path_factory.mktemp("voc") / "tiny")


@pytest.fixture
def tiny_train(tiny_voc):
    """The training split of `tiny_voc`."""
    return load_voc(tiny_voc, "train")


@pytest.fixture
def tiny_test(tiny_voc):
    """The test split of `tiny_voc`."""
    return load_voc(tiny_voc, "test")


@pytest.fixture
def tiny_settings() -> RunSettings:
    """Random AlexNet at a scale of 96 pixels, two pyramid levels, few proposals."""
    return replace(
        PRESETS["paper-1scale"],
        network=NetworkSettings("alexnet", "random"),
        features=FeatureSettings(scales=(96,), levels=(2, 1)),
        proposals=SelectiveSearch(max_proposals=60),
    )


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty working folder to call the command in."""
    monkeypatch.chdir(tmp_path)
    for variable in ("VOC_ROOT", "SPPNET_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    # Lines must not depend on the width of the terminal that the tests run in. The width is patched by its
    # private name, because the public property cannot be set back to "as wide as the terminal".
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setattr(console, "width", 250)
    return tmp_path
