"""The interface of a proposal engine, and the digest of its parameters, which is a key of the cache."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol

from sppnet.common.arrays import FloatArray, Image


class Engine(Protocol):
    """A method that proposes candidate boxes for an image.

    An engine is a frozen dataclass of its settings, small and picklable: every worker gets a copy.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class WholeImage:
        ...     def propose(self, image):
        ...         height, width = image.shape[:2]
        ...         return np.array([[0, 0, width, height]], np.float32)
        ...
        ...     def parameters(self):
        ...         return {"engine": "whole-image"}
        >>> import numpy as np
        >>> engine: Engine = WholeImage()
        >>> engine.propose(np.zeros((30, 40, 3), np.uint8)).tolist()
        [[0.0, 0.0, 40.0, 30.0]]
    """

    def propose(self, image: Image) -> FloatArray:
        """Proposes boxes for one image.

        Args:
            image: uint8 (H, W, 3), RGB.

        Returns:
            float32 (N, 4), best first, no duplicates; xyxy, 0-based pixel edges, right and bottom exclusive;
            whole numbers.
        """

    def parameters(self) -> dict[str, Any]:
        """Returns all that the boxes depend on besides the image, including versions, as JSON values."""


# Settings that have an older name in caches and models. The digests there include the names, so they stay.
_STORED_NAMES = {"max_proposals": "max_windows"}


def stored_parameters(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Renames an engine's settings to their names in caches and models; `settings_of` is the inverse."""
    return {_STORED_NAMES.get(name, name): value for name, value in settings.items()}


def settings_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings from the result of `Engine.parameters`, without the engine's name and versions."""
    names = {stored: name for name, stored in _STORED_NAMES.items()}
    not_settings = ("engine", "revision", "opencv")
    return {names.get(name, name): value for name, value in parameters.items() if name not in not_settings}


def method_digest(engine: Engine) -> str:
    """Computes the SHA-256 of an engine's parameters in canonical JSON: the method's key in the cache."""
    return hashlib.sha256(canonical_json(engine.parameters()).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """Writes JSON with sorted keys and no white space, so that equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
