"""What every engine of proposals offers."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol

from sppnet.common.arrays import FloatArray, Image


class Engine(Protocol):
    """A method of proposals: image to candidate windows.

    An engine is a frozen dataclass of its settings, small and picklable, so that workers get a copy.
    """

    def propose(self, image: Image) -> FloatArray:
        """uint8 (H, W, 3) RGB to float32 (N, 4) whole-numbered xyxy boxes, best first, no duplicates."""

    def parameters(self) -> dict[str, Any]:
        """Everything that the boxes depend on besides the image, versions included, as JSON values."""


# The names of parameters in caches and models, whose entries are found by a digest of them.
_STORED_NAMES = {"max_proposals": "max_windows"}


def stored_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of an engine under the names that caches and models hold; `settings_of` is the inverse."""
    return {_STORED_NAMES.get(name, name): value for name, value in values.items()}


def settings_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in what `Engine.parameters` gave, by today's names, without engine and versions."""
    names = {stored: name for name, stored in _STORED_NAMES.items()}
    about = ("engine", "revision", "opencv")
    return {names.get(name, name): value for name, value in parameters.items() if name not in about}


def method_digest(engine: Engine) -> str:
    """SHA-256 of the engine's parameters in canonical JSON: the method's key in the cache."""
    return hashlib.sha256(canonical_json(engine.parameters()).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no white space: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
