"""Selective Search, the evaluator and the readers in an environment without torch.

It holds the packages of the group "light" in pyproject.toml and what these need, and no others.
"""

import re
import shlex
import subprocess
import tomllib
from importlib.metadata import distribution

import pytest
from built_wheel import ROOT, new_environment
from packaging.requirements import Requirement

from sppnet.common.packages import explain_missing

_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
_LIGHT = _PROJECT["dependency-groups"]["light"]
_SCRIPT = """
import importlib.util
from pathlib import Path
import numpy as np

assert not [name for name in ("torch", "torchvision", "timm", "sklearn") if importlib.util.find_spec(name)]
import sppnet.data, sppnet.eval, sppnet.proposals
from sppnet import SelectiveSearch, coco_metrics, evaluate_voc, load_dataset
from sppnet.eval import write_voc_detections

image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
print("boxes", SelectiveSearch("single")(image).shape)

truth = {"a": {"boxes": np.array([[10, 20, 60, 80]]), "labels": np.array([0])}}
result = evaluate_voc(truth, {"a": {**truth["a"], "scores": np.array([0.5])}})
coco = coco_metrics(truth, {"a": {**truth["a"], "scores": np.array([0.5])}})
print("plain", result.map_area, round(coco["AP"], 6))

test = load_dataset("sample", "test")
perfect = {
    example.image_id: sppnet.data.Detections.of(example.boxes, np.ones(len(example.boxes)), example.labels)
    for example in test
}
print("sample", len(test), evaluate_voc(test, perfect).map_area)
write_voc_detections(Path("results"), perfect, test.classes)

try:
    from sppnet import Detector
except ImportError as error:
    print("refused", error)
"""


def closure(lines):
    """The names of the packages that some requirements need, directly or not."""
    names = set()
    waiting = [Requirement(line) for line in lines]
    while waiting:
        requirement = waiting.pop()
        if requirement.name in names or not (requirement.marker is None or requirement.marker.evaluate()):
            continue
        names.add(requirement.name)
        waiting += map(Requirement, distribution(requirement.name).requires or ())
    return names


def link_packages(names, folder):
    """Makes a folder of links to the files of installed packages."""
    folder.mkdir()
    for name in names:
        installed = distribution(name)
        tops = {file.parts[0] for file in installed.files} - {"..", "__pycache__"}
        for top in tops:
            if not (folder / top).exists():
                (folder / top).symlink_to(installed.locate_file(top))
    return folder


@pytest.fixture(scope="module")
def light(wheel, tmp_path_factory):
    """The folder of programs of an environment without torch, and a working folder."""
    folder = tmp_path_factory.mktemp("light")
    python, _ = new_environment(folder / "env", wheel, [link_packages(closure(_LIGHT), folder / "packages")])
    (folder / "work").mkdir()
    return python.parent, folder / "work"


def call(light, program, *arguments):
    folder, work = light
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(work), "COLUMNS": "200"}
    return subprocess.run(
        [folder / program, *arguments], capture_output=True, text=True, cwd=work, env=environment, timeout=250
    )


def test_the_light_packages_are_among_the_dependencies():
    assert set(_LIGHT) < set(_PROJECT["project"]["dependencies"])
    assert not {"torch", "torchvision", "timm"} & closure(_LIGHT)


def test_the_page_names_exactly_these_packages():
    page = (ROOT / "docs" / "parts.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^pip install (\".*?[^\\])$", page, re.MULTILINE | re.DOTALL)
    assert shlex.split(command.replace("\\\n", " ")) == _LIGHT


@pytest.mark.timeout(300)
def test_library_and_commands_without_torch(light):
    result = call(light, "python", "-c", _SCRIPT)
    assert result.returncode == 0, result.stderr
    lines = dict(line.split(" ", 1) for line in result.stdout.splitlines())
    assert re.fullmatch(r"\(\d+, 4\)", lines["boxes"])
    assert lines["plain"] == "1.0 1.0"
    assert lines["sample"] == "30 1.0"
    assert re.fullmatch(
        r'sppnet.Detector: this needs \w+, which is not installed; .*: pip install ".*"torch[<>].*',
        lines["refused"],
    )
    for arguments in (
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["proposals", "--dataset", "sample", "--limit", "1", "--jobs", "1", "--draw", "drawn"],
        ["eval-proposals", "--dataset", "sample", "--limit", "1", "--jobs", "1", "--engine", "single"],
        ["data", "check", "sample", "--html", "check.html"],
        ["data", "convert", "datasets/sample", "--to", "yolo", "--output", "converted"],
        ["eval", "--detections", "results", "--dataset", "sample"],
    ):
        result = call(light, "sppnet", *arguments)
        assert result.returncode == 0, result.stdout + result.stderr
    assert "100.0" in result.stdout


@pytest.mark.timeout(300)
def test_commands_that_need_torch_say_what_to_install(light):
    (light[1] / "photo.ppm").write_bytes(b"P6 40 40 255 " + bytes(4800))
    for arguments in (
        ["predict", "photo.ppm", "--model", "model"],
        ["train", "sample"],
        ["detect", "--dataset", "sample"],
    ):
        result = call(light, "sppnet", *arguments)
        assert result.returncode == 2
        message = result.stderr.splitlines()[-1]
        assert message.startswith("error: this needs ")
        assert "pip install " in message
        assert ' "torch<' in message
        assert '"numpy' not in message


def test_an_import_that_fails_for_another_reason_is_not_explained():
    """Here every package is installed."""
    assert explain_missing(ModuleNotFoundError(name="sppnet.nothing")) is None
