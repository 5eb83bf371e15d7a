"""Rebuilds a proposal engine from the parameters that a model or a cache holds."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from sppnet.common.errors import InputError
from sppnet.common.settings import override
from sppnet.proposals.engine import Engine, settings_of
from sppnet.proposals.imported import ImportedBoxes
from sppnet.proposals.opencv import OpenCVSelectiveSearch
from sppnet.proposals.selective_search import SelectiveSearch

_AnyEngine = TypeVar("_AnyEngine", ImportedBoxes, OpenCVSelectiveSearch, SelectiveSearch)


def engine_from_parameters(parameters: Mapping[str, Any], source: str) -> Engine:
    """Rebuilds the engine that its parameters describe.

    The versions in the parameters are ignored; the engine runs with the installed versions. If these are the
    same, its parameters equal ``parameters``, and the cache finds the boxes that were stored under them.

    Args:
        parameters: the result of `Engine.parameters`, also after a round trip through JSON. A missing setting
            has its default.
        source: the origin of the parameters, for error messages.

    Raises:
        InputError: an engine or a setting is unknown, or a value is wrong.

    Example:
        >>> engine = SelectiveSearch("single", seed=3)
        >>> engine_from_parameters(engine.parameters(), "model.json").parameters() == engine.parameters()
        True
    """
    settings = settings_of(parameters)
    match parameters.get("engine"):
        case "imported":
            return _with_settings(ImportedBoxes("unnamed"), settings, source)
        case "opencv":
            return _with_settings(OpenCVSelectiveSearch(), settings, source)
        case "selective-search":
            # Both settings may be None or a number; `override` accepts either if the present value is None.
            optional: dict[str, Any] = dict.fromkeys({"max_pixels", "max_proposals"} & settings.keys())
            return _with_settings(SelectiveSearch(**optional), settings, source)
        case name:
            raise InputError(
                f"{source}: unknown proposal engine {name!r}; known are imported, opencv and "
                "selective-search; train again"
            )


def _with_settings(engine: _AnyEngine, settings: Mapping[str, Any], source: str) -> _AnyEngine:
    engine = override(engine, settings, source)
    # `override` turns 1 into 1.0 if a float is expected, but the digest of the parameters differs for them.
    whole: dict[str, Any] = {name: value for name, value in settings.items() if type(value) is int}
    return replace(engine, **whole)
