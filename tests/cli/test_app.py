"""The command line as a whole: help, version, start-up without torch."""

import inspect
import json
import os
import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version

import pytest
import typer
from command import call, words

from sppnet.cli.commands import COMMANDS
from sppnet.cli.groups import LazyCommand, lazy_group, new_app

LEAVES = [*([name] for name in COMMANDS if name != "data"), *(["data", name] for name in ("crops", "sample"))]


@pytest.mark.parametrize("arguments", [[], ["data"], *LEAVES], ids=" ".join)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_not_cut_at_80_columns(arguments, flag):
    result = call(*arguments, flag, columns=80)
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")
    assert "…" not in result.output
    # Three points may only mark a repeatable argument.
    assert "..." not in re.sub(r"[A-Za-z\]}>]\.\.\.", "", result.output)
    assert max(map(len, result.output.splitlines())) <= 80


@pytest.mark.parametrize("arguments", LEAVES, ids=" ".join)
def test_help_names_every_option_whole(arguments):
    """A narrow terminal changes the line breaks only."""
    narrow, wide = (words(call(*arguments, "--help", columns=columns)) for columns in (50, 80))
    options = {word.strip(",") for word in wide.split() if word.startswith("--")}
    assert "--help" in options
    assert options <= {word.strip(",") for word in narrow.split()}


def test_commands_are_listed_in_groups():
    output = call("--help").output
    headings = ["Detection:", "Proposals:", "Experiments:", "Image classification:", "Data and backbones:"]
    assert [line for line in output.splitlines() if line in headings] == headings
    for name, lazy in COMMANDS.items():
        assert f"  {name} " in output
        assert lazy.help in words(call("--help"))


def test_options_are_listed_in_groups():
    lines = call("train", "--help").output.splitlines()
    headings = ["Arguments:", "Data set:", "Settings:", "Run:", "Head:", "Options:"]
    assert [line for line in lines if line in headings] == headings


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_agrees_with_the_modules(name):
    module, attribute = COMMANDS[name].path.split(":")
    loaded = getattr(import_module(module), attribute)
    summary = (
        loaded.info.help if isinstance(loaded, typer.Typer) else inspect.getdoc(loaded).partition("\n")[0]
    )
    assert summary == COMMANDS[name].help


def test_a_call_without_arguments_prints_the_help():
    assert "Usage: " in call().output
    assert "Usage: " in call("data").output


def test_a_misspelt_command_gets_a_suggestion():
    result = call("trian")
    assert result.exit_code == 2
    assert "Did you mean 'train'" in result.output
    assert "No such option: --datset" in call("train", "--datset", "sample").output


def test_version():
    assert call("--version").output == f"sppnet {version('sppnet')}\n"
    program = [sys.executable, "-m", "sppnet", "--version"]
    result = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, f"sppnet {version('sppnet')}\n")


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("sppnet pro", ["proposals", "proposals-import", "proposals-export"]),
        ("sppnet train --hea", ["--head"]),
        ("sppnet train --head fc", ["fc6", "fc7"]),
        ("sppnet eval --preset paper-1scale-", ["paper-1scale-rcnn-regression"]),
    ],
)
def test_shell_completion(typed, completed):
    environment = {
        "_SPPNET_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(typed.count(" ")),
    }
    result = subprocess.run(
        [sys.executable, "-m", "sppnet"],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )
    assert result.stdout.split() == completed


def test_a_command_is_imported_when_it_is_called(tmp_path, monkeypatch):
    (tmp_path / "lazy_example.py").write_text('def greet() -> None:\n    """Greets."""\n    print("hello")\n')
    monkeypatch.syspath_prepend(tmp_path)
    table = {"greet": LazyCommand("lazy_example:greet", "Others", "Greets.")}
    app = new_app("An example.", lazy_group(table))
    app.callback()(lambda: None)
    assert "Greets." in call("--help", app=app).output
    assert "lazy_example" not in sys.modules
    assert call("greet", app=app).output == "hello\n"
    assert sys.modules.pop("lazy_example")


def check_imports(cases, absent, folder):
    """Checks that calls of the program in a new process load none of the ``absent`` modules.

    Args:
        cases: pairs of arguments and the expected exit code.
        absent: names of modules.
        folder: the working folder of the process.
    """
    code = """
import json, sys
from sppnet.cli.app import app

for arguments, expected in json.loads(sys.argv[1]):
    try:
        app(arguments)
    except SystemExit as exit:
        assert exit.code == expected, (arguments, exit.code)
    loaded = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
    assert not loaded, (arguments, loaded)
"""
    texts = [[[str(argument) for argument in arguments], expected] for arguments, expected in cases]
    result = subprocess.run(
        [sys.executable, "-c", code, json.dumps(texts), json.dumps(absent)],
        capture_output=True, text=True, cwd=folder, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_help_and_errors_of_options_import_no_large_library(work):
    cases = [
        (["--help"], 0), (["--version"], 0), ([], 2), (["trian"], 2), (["predict", "photo.jpg"], 2),
        (["eval", "--iou", 2], 2), (["eval", "--detections", "folder", "--run", "name"], 2),
    ]  # fmt: skip
    for name in COMMANDS:
        cases += [([name, "--help"], 0), ([name, "--nosuch"], 2)]
    check_imports(cases, ["torch", "numpy", "cv2", "numba", "rich.markdown"], work)


def test_proposals_evaluation_and_data_need_no_torch(finished, work, tiny_voc):
    data = ("--dataset", tiny_voc)
    few = ("--set", "proposals.max_proposals = 30")
    cases = [
        (["data", "crops", "crops", *data], 0),
        (["proposals", *data, *few, "--split", "test", "--jobs", 1, "--limit", 1, "--draw", "drawn"], 0),
        (["proposals", *data, *few, "--split", "test", "--jobs", 1], 0),
        (["proposals-export", "boxes.npz", *data, *few], 0),
        (["proposals-import", "boxes.npz", *data, "--name", "published"], 0),
        (["eval-proposals", *data, "--boxes", "boxes.npz", "--engine", "single", "--jobs", 1], 0),
        (["eval", *data, "--detections", finished[0] / "runs" / "tiny" / "detections"], 0),
        # Wrong settings and data sets are named before torch is loaded.
        (["train", *data, "--preset", "papr-1scale"], 2),
        (["detect", *data, "--set", "features.scale = [96]"], 2),
        (["detect", "--dataset", "voc2008"], 2),
    ]
    check_imports(cases, ["torch", "torchvision", "timm"], work)
