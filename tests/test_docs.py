"""The pages for people keep up with the code: names, commands, settings, paths, links and examples."""

import importlib
import importlib.util
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

_ROOT = Path(__file__).resolve().parents[1]
_DOCS = _ROOT / "docs"
_PAGES = sorted([*_ROOT.glob("*.md"), *_DOCS.rglob("*.md")])
_NAMES = [str(page.relative_to(_ROOT)) for page in _PAGES]


def public_names():
    """Every name in an ``__all__`` of the package: (module, name)."""
    packages = ["sppnet"]
    for room in ("common", "data", "svm", "proposals", "eval", "detection"):
        folders = sorted(file.parent.relative_to(_ROOT) for file in (_ROOT / room).rglob("__init__.py"))
        packages += [".".join(("sppnet", *folder.parts)) for folder in folders]
    return [
        (package, name)
        for package in packages
        for name in getattr(importlib.import_module(package), "__all__", ())
    ]


def described():
    """The objects that the pages of the API describe, and the text of these pages."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in sorted((_DOCS / "api").glob("*.md")))
    objects = []
    for name, left_out in re.findall(r"automodule:: (\S+)(?:\n   :exclude-members: (.*))?", text):
        module = importlib.import_module(name)
        names = getattr(module, "__all__", None) or [
            key for key, value in vars(module).items() if getattr(value, "__module__", None) == name
        ]
        objects += [getattr(module, key) for key in names if key not in left_out.split(", ")]
    return objects, text


def test_every_public_name_is_documented():
    objects, text = described()
    known = {id(value) for value in objects if callable(value)}
    missing = []
    for package, name in public_names():
        value = getattr(importlib.import_module(package), name)
        if not callable(value) or get_args(value):
            # A constant, which has no docstring of its own.
            if f"`{name}`" not in text and f".{name}`" not in text:
                missing.append(f"{package}.{name}: a constant that no page in docs/api names")
        elif not value.__doc__ or value.__doc__.startswith(f"{name}("):
            # A dataclass without a docstring is given its signature.
            missing.append(f"{package}.{name}: no docstring")
        elif id(value) not in known:
            missing.append(f"{package}.{name}: on no page in docs/api")
    assert missing == []


def test_commands_and_settings_are_those_of_the_code():
    spec = importlib.util.spec_from_file_location("reference", _DOCS / "reference.py")
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    stale = [page.name for page, text in reference.pages().items() if page.read_text("utf-8") != text]
    assert stale == [], "run 'python docs/reference.py'"


def anchors(page):
    """The anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", _PAGES, ids=_NAMES)
def test_links_lead_somewhere(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/adding.md", "docs/how-it-works.md"])
def test_files_that_a_page_names_exist(name):
    paths = re.findall(r"`([\w/]+/(?:\w+\.\w+)?)`", (_ROOT / name).read_text(encoding="utf-8"))
    # Those are made where the program works.
    paths = [path for path in paths if not path.startswith(("datasets/", "cache/", "runs/", "site/"))]
    assert paths
    assert [path for path in paths if not (_ROOT / path).exists()] == []


def test_names_in_the_files_that_a_page_names_exist():
    """Where a line of the page names a file, the names beside it are in that file."""
    wrong = []
    for line in (_DOCS / "adding.md").read_text(encoding="utf-8").splitlines():
        text = "".join(
            (_ROOT / path).read_text(encoding="utf-8") for path in re.findall(r"`([\w/]+\.py)`", line)
        )
        names = re.findall(r"`([A-Za-z_]{3,})(?:\(.*?\))?`", line) if text else []
        wrong += [name for name in names if not re.search(rf"\b{name}\b", text)]
    assert wrong == []


def examples(page):
    """The Python code of a page, in one piece."""
    return "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))


@pytest.mark.parametrize("name", ["parts.md", "own-data.md", "check-your-data.md"])
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    exec(compile(examples(_DOCS / name), name, "exec"), {"image": image})
