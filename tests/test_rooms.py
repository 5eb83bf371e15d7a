"""The rooms import one way: data <- proposals, data <- eval, detection on top; svm imports no other room."""

import ast
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]
_MAY_IMPORT = {
    "data": set(),
    "svm": set(),
    "proposals": {"data"},
    "eval": {"data"},
    "detection": {"data", "svm", "proposals", "eval"},
}


def imported(source):
    """The top-level packages that a module imports, also inside functions and of ``import a.b as c``."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "rooms are imported by their full names"
            names.add(node.module)
    return {name.split(".")[0] for name in names}


def modules(room):
    files = sorted((_ROOT / room).rglob("*.py"))
    assert files, f"room {room} has no modules"
    return files


def test_the_check_sees_every_form_of_import():
    source = "import a.b\nimport c as d\nfrom e.f import g\ndef h():\n    from i import j\n"
    assert imported(source) == {"a", "c", "e", "i"}


@pytest.mark.parametrize("room", _MAY_IMPORT)
def test_imports_run_one_way(room):
    others = set(_MAY_IMPORT) - {room} - _MAY_IMPORT[room]
    found = {
        str(file.relative_to(_ROOT)): sorted(bad)
        for file in modules(room)
        if (bad := imported(file.read_text(encoding="utf-8")) & others)
    }
    assert found == {}


@pytest.mark.parametrize("room", _MAY_IMPORT)
def test_nothing_is_unpickled(room):
    pickles = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
    found = [file.name for file in modules(room) if imported(file.read_text(encoding="utf-8")) & pickles]
    assert found == []
