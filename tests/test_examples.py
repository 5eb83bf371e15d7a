"""The examples in docstrings run, and each public name has one."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import sppnet

_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_ROOMS = (
    "sppnet",
    "sppnet.data",
    "sppnet.proposals",
    "sppnet.eval",
    "sppnet.svm",
    "sppnet.detection.backbones",
    "sppnet.detection.training",
)


def package_modules():
    """The names of all modules that can be imported without side effects."""
    rooms = ("common", "data", "svm", "proposals", "eval", "detection")
    names = []
    for room in rooms:
        package = importlib.import_module(f"sppnet.{room}")
        modules = pkgutil.walk_packages(package.__path__, f"sppnet.{room}.")
        names += [f"sppnet.{room}", *(module.name for module in modules)]
    return names


@pytest.mark.parametrize("name", package_modules())
def test_examples_of_a_module(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name), optionflags=_FLAGS)
    assert result.failed == 0


@pytest.mark.parametrize("room", _ROOMS)
def test_public_names_are_documented_with_an_example(room):
    module = importlib.import_module(room)
    lacking = []
    for name in module.__all__:
        value = getattr(module, name)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        if not value.__doc__ or not (">>>" in value.__doc__ or _has_example_in_a_method(value)):
            lacking.append(name)
    assert lacking == []


def _has_example_in_a_method(value):
    return inspect.isclass(value) and any(">>>" in (member.__doc__ or "") for member in vars(value).values())


def test_every_public_name_can_be_imported():
    assert sorted(sppnet.__all__) == sorted({*sppnet.__all__})
    for name in sppnet.__all__:
        assert getattr(sppnet, name) is not None
    assert {*sppnet.__all__} <= {*dir(sppnet)}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sppnet.nothing
