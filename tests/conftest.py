"""Fixtures that every room's tests share."""

import os
from pathlib import Path

import pytest

pytest_plugins = ["built_wheel", "tiny_dataset"]

_SHARED = Path(__file__).resolve().parents[2] / "shared"


def _folder(variable: str, default: Path, holds: str) -> Path:
    path = Path(os.environ.get(variable) or default)
    if not path.is_dir():
        pytest.skip(f"needs {holds}: set {variable} to its folder ({path} does not exist)")
    return path


@pytest.fixture(scope="session")
def voc_root() -> Path:
    """The VOCdevkit folder with real VOC2007 images."""
    return _folder("VOC_ROOT", _SHARED / "VOCdevkit", "real VOC2007 images")


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """The folder with alexnet-conv.safetensors and vgg16-conv.safetensors."""
    return _folder("WEIGHTS_DIR", _SHARED / "weights", "real ImageNet weights")
