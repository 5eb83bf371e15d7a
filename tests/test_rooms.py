"""Imports run one way through the rooms, and nothing is unpickled."""

import ast
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]
# From the ground floor up: a module imports its own room and those above it in this list, but not a peer (a
# room of the same line).
_FLOORS = [
    ["sppnet.common"],
    ["sppnet.data", "sppnet.svm"],
    ["sppnet.proposals", "sppnet.eval"],
    ["sppnet.detection.backbones"],
    ["sppnet.detection.features"],
    ["sppnet.detection.nms", "sppnet.detection.fc_layers"],
    ["sppnet.detection.detector"],
    ["sppnet.detection.batch"],
    ["sppnet.detection.training", "sppnet.detection.classification", "sppnet.detection.distillation"],
    ["sppnet.detection.runs"],
    ["sppnet.detection.experiments"],
    ["sppnet.cli"],
]
_FLOOR = {room: number for number, rooms in enumerate(_FLOORS) for room in rooms}


def imported(source):
    """The modules that a module imports, also inside functions and of ``import a.b as c``."""
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
    found = {}
    for room in ("common", "data", "svm", "proposals", "eval", "detection", "sppnet"):
        files = sorted((_ROOT / room).rglob("*.py"))
        assert files, f"room {room} has no modules"
        for file in files:
            parts = file.relative_to(_ROOT).with_suffix("").parts
            name = ".".join(parts if parts[0] == "sppnet" else ("sppnet", *parts))
            found[name.removesuffix(".__init__")] = file
    return found


def room_of(name):
    """The room that a module is in; None for the package itself and modules of others."""
    fitting = [room for room in _FLOOR if name == room or name.startswith(f"{room}.")]
    return max(fitting, key=len, default=None)


def test_the_check_sees_every_form_of_import():
    source = "import a.b\nimport c as d\nfrom e.f import g\ndef h():\n    from i import j\n"
    assert imported(source) == {"a.b", "c", "e.f.g", "i.j"}


def test_imports_run_one_way():
    bad = []
    for name, file in modules().items():
        own = room_of(name)
        if own is None:
            continue
        for other in imported(file.read_text(encoding="utf-8")):
            room = room_of(other)
            if room is not None and room != own and _FLOOR[room] >= _FLOOR[own]:
                bad.append(f"{name} imports {other}")
    assert bad == []


def test_every_module_is_in_a_room():
    outside = [name for name in modules() if room_of(name) is None]
    assert outside == ["sppnet.detection", "sppnet", "sppnet.__main__"]


def test_imports_are_absolute_and_begin_with_the_package():
    rooms = {"common", "data", "svm", "proposals", "eval", "detection", "cli"}
    bad = {
        name: sorted(wrong)
        for name, file in modules().items()
        if (
            wrong := {one for one in imported(file.read_text(encoding="utf-8")) if one.split(".")[0] in rooms}
        )
    }
    assert bad == {}


@pytest.mark.parametrize("room", sorted(_FLOOR))
def test_nothing_is_unpickled(room):
    pickles = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
    found = [
        name
        for name, file in modules().items()
        if room_of(name) == room
        and {one.split(".")[0] for one in imported(file.read_text(encoding="utf-8"))} & pickles
    ]
    assert found == []
