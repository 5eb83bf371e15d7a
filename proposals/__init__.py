"""Proposals: image to candidate windows, and the offline cache of them."""

from proposals.cache import Key, ProposalCache
from proposals.engine import Engine
from proposals.fill import FillReport, fill_cache, image_key, propose_cached
from proposals.imported import ImportedBoxes
from proposals.opencv import OpenCVSelectiveSearch

__all__ = [
    "Engine",
    "FillReport",
    "ImportedBoxes",
    "Key",
    "OpenCVSelectiveSearch",
    "ProposalCache",
    "fill_cache",
    "image_key",
    "propose_cached",
]
