"""Settings of Sphinx for ``make docs``."""

import inspect
import re
from types import ModuleType
from typing import Any, get_args

import numpy as np
from docutils import nodes
from numpy.typing import ArrayLike, NDArray
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.util.typing import stringify_annotation

import sppnet
from sppnet.common import arrays
from sppnet.eval import plain

project = "sppnet"
author = project_copyright = "the sppnet authors"
release = version = sppnet.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3

# A name in single backticks becomes a link if an object has this name; otherwise it is shown as code.
default_role = "py:obj"
highlight_language = "none"
# Typographic dashes only: quotes are often part of code and must stay as typed.
smartquotes_action = "D"
add_module_names = False
python_use_unqualified_type_names = True
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_attr_annotations = False

# A page loads nothing from other sites: furo has its own styles and scripts, and no fonts.
html_theme = "furo"
html_title = "sppnet"
html_show_sphinx = False
html_static_path = ["static"]
html_css_files = ["pages.css"]


def _aliases(module: ModuleType) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if get_args(value) and name[0] != "_"}


# Python writes a type alias as the type behind it; signatures should show the alias, as the code does.
_NAMES = {
    "ArrayLike": ArrayLike,
    "NDArray[float64]": NDArray[np.float64],
    **_aliases(plain),
    **_aliases(arrays),
}
_ALIASES = {
    stringify_annotation(alias, mode): name
    for name, alias in _NAMES.items()
    for mode in ("smart", "fully-qualified")
}


def _short(text: str | None) -> str | None:
    if text is None:
        return None
    for long in sorted(_ALIASES, key=len, reverse=True):
        text = text.replace(long, _ALIASES[long])
    # Defaults that are functions or that a factory makes.
    text = text.replace("<factory>", "...")
    text = re.sub(r"<bound method ([\w.]+) of <[^>]*>>", r"\1", text)
    return re.sub(r"<function (\w+)>", r"\1", text)


def _shorten_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    return _short(signature), _short(returns)


def _without_package_docstring(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Drops the docstring of a package: its page has an introduction written by hand."""
    if what == "module" and hasattr(obj, "__path__"):
        lines.clear()


def _skip(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Skips members that another page or section describes."""
    module = app.env.current_document.autodoc_module or ""
    if what == "module" and module != "sppnet" and name in sppnet.__all__:
        # The page of the package `sppnet` describes it.
        return getattr(sppnet, name) is obj or None
    if what == "class" and inspect.isroutine(obj) and getattr(obj, "__name__", name) != name:
        # A dataclass field whose default is a function: the section "Attributes" describes it.
        return True
    return None


def _resolve_by_last_name(
    app: Sphinx, env: Any, node: nodes.Element, contnode: nodes.Element
) -> nodes.Element | None:
    """Links `Detector` or `Detector.fit`, written without its module; an unknown name stays code."""
    if node.get("refdomain") != "py":
        return None
    domain, target = env.domains.python_domain, node["reftarget"]
    names = [name for name in domain.objects if name.endswith(f".{target}")]
    if f"sppnet.{target}" in names:
        names = [f"sppnet.{target}"]
    if len(names) != 1:
        return None
    entry = domain.objects[names[0]]
    reference = nodes.reference("", "", contnode, internal=True)
    reference["refuri"] = app.builder.get_relative_uri(node["refdoc"], entry.docname) + "#" + entry.node_id
    reference["reftitle"] = names[0]
    return reference


def setup(app: Sphinx) -> None:
    """Connects the functions of this module to Sphinx's events."""
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    app.connect("autodoc-process-signature", _shorten_signature)
    app.connect("autodoc-process-docstring", _without_package_docstring)
    app.connect("autodoc-skip-member", _skip)
    app.connect("missing-reference", _resolve_by_last_name)
