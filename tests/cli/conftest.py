"""Fixtures of the command tests: a folder in which the main job was run."""

import shutil

import pytest
from command import QUICK, call


@pytest.fixture(scope="session")
def finished(tiny_voc, tmp_path_factory):
    """A folder in which the main job was run, and the command's result."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for variable in ("VOC_ROOT", "SPPNET_CACHE"):
            patch.delenv(variable, raising=False)
        result = call(
            "detect", "--dataset", tiny_voc, "--run", "tiny", "--jobs", 1, "--draw", "drawn", *QUICK
        )
    return folder, result


@pytest.fixture
def done(finished, work):
    """A copy of the folder of `finished`, to work in."""
    shutil.copytree(finished[0], work, dirs_exist_ok=True)
    return work
