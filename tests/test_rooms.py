"""Imports run one way through the rooms, each system has what they need, and nothing is unpickled."""

import ast
from functools import cache
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]
# From the ground floor up. A module imports its own room and rooms of earlier lines, but none of its line.
_FLOORS = [
    ["sppnet.common"],
    ["sppnet.data", "sppnet.svm"],
    ["sppnet.proposals", "sppnet.eval"],
    ["sppnet.detection.backbones"],
    ["sppnet.detection.features"],
    [
        "sppnet.detection.calibration",
        "sppnet.detection.detection_settings",
        "sppnet.detection.fc_layers",
        "sppnet.detection.heads",
    ],
    ["sppnet.detection.nms", "sppnet.detection.model_files"],
    ["sppnet.detection.detector"],
    ["sppnet.detection.training", "sppnet.detection.classification", "sppnet.detection.distillation"],
    ["sppnet.detection.runs"],
    ["sppnet.detection.experiments"],
    ["sppnet.cli"],
]
_FLOOR = {room: number for number, rooms in enumerate(_FLOORS) for room in rooms}


def imported(source):
    """The modules and names that a source imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "rooms are imported by their full names"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def modules():
    """Every module of the package by its dotted name."""
    files_by_name = {}
    for room in ("common", "data", "svm", "proposals", "eval", "detection", "sppnet"):
        files = sorted((_ROOT / room).rglob("*.py"))
        assert files, f"room {room} has no modules"
        for file in files:
            parts = file.relative_to(_ROOT).with_suffix("").parts
            name = ".".join(parts if parts[0] == "sppnet" else ("sppnet", *parts))
            files_by_name[name.removesuffix(".__init__")] = file
    return files_by_name


@cache
def imports_by_module():
    """The imports of every module of the package."""
    return {name: imported(file.read_text(encoding="utf-8")) for name, file in modules().items()}


def room_of(name):
    """The room that a module is in; None for the package itself and modules of others."""
    rooms = [room for room in _FLOOR if name == room or name.startswith(f"{room}.")]
    return max(rooms, key=len, default=None)


def test_the_check_sees_every_form_of_import():
    source = "import a.b\nimport c as d\nfrom e.f import g\ndef h():\n    from i import j\n"
    assert imported(source) == {"a.b", "c", "e.f.g", "i.j"}


def test_imports_run_one_way():
    bad = []
    for name, targets in imports_by_module().items():
        room = room_of(name)
        if room is None:
            continue
        for target in targets:
            target_room = room_of(target)
            if target_room not in (None, room) and _FLOOR[target_room] >= _FLOOR[room]:
                bad.append(f"{name} imports {target}")
    assert bad == []


def test_every_module_is_in_a_room():
    outside = [name for name in modules() if room_of(name) is None]
    assert outside == ["sppnet.detection", "sppnet", "sppnet.__main__"]


def test_every_room_exists():
    assert [room for room in _FLOOR if room not in modules()] == []


@pytest.mark.parametrize(
    "roots",
    [
        {"common", "data", "svm", "proposals", "eval", "detection", "cli"},
        {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"},
    ],
    ids=["rooms_without_the_package", "pickles"],
)
def test_no_module_imports(roots):
    """Rooms are imported as subpackages of sppnet, and nothing is unpickled."""
    bad = [
        f"{name} imports {target}"
        for name, targets in imports_by_module().items()
        for target in targets
        if target.split(".")[0] in roots
    ]
    assert bad == []


def test_no_module_needs_what_one_system_lacks():
    """A module of one system only is imported where it is used, after a question for the system."""
    of_one_system = {"fcntl", "grp", "msvcrt", "posix", "pwd", "resource", "termios", "winreg", "_winapi"}
    bad = []
    for name, file in modules().items():
        at_import = ast.parse(file.read_text(encoding="utf-8"))
        for node in at_import.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                targets = imported(ast.unparse(node))
                bad += [
                    f"{name} imports {target}" for target in targets if target.split(".")[0] in of_one_system
                ]
    assert bad == []


def test_only_one_module_compiles():
    """It knows where the machine code can be kept."""
    users = [name for name, targets in imports_by_module().items() if "numba" in targets]
    assert users == ["sppnet.common.kernels"]
