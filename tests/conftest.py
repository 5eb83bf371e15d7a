"""Fixtures that every room's tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sppnet.common.cores import allowed_cores

pytest_plugins = ["built_wheel", "tiny_dataset"]

_SHARED = Path(__file__).resolve().parents[2] / "shared"


def _folder(variable: str, default: Path, holds: str) -> Path:
    path = Path(os.environ.get(variable) or default)
    if not path.is_dir():
        pytest.skip(f"needs {holds}: set {variable} to its folder ({path} does not exist)")
    return path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """The number of processes of ``-n auto``; the plugin itself counts the machine's cores."""
    return allowed_cores()


@pytest.fixture(scope="session")
def voc_root() -> Path:
    """The VOCdevkit folder with real VOC2007 images."""
    return _folder("VOC_ROOT", _SHARED / "VOCdevkit", "real VOC2007 images")


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """The folder with alexnet-conv.safetensors and vgg16-conv.safetensors."""
    return _folder("WEIGHTS_DIR", _SHARED / "weights", "real ImageNet weights")


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Tests do not wait for the disk, 8 ms a file; those of power cuts count the calls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        patch.setattr(os, "sync", lambda: None, raising=False)
        yield
