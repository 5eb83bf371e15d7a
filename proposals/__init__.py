"""Proposals: image to candidate windows, and the offline cache of them."""

from proposals.cache import Key, ProposalCache
from proposals.engine import Engine
from proposals.fill import FillReport, fill_cache, image_key, propose_cached, propose_example
from proposals.imported import ImportedBoxes
from proposals.opencv import OpenCVSelectiveSearch
from proposals.selective_search import SelectiveSearch, Strategy

__all__ = [
    "Engine",
    "FillReport",
    "ImportedBoxes",
    "Key",
    "OpenCVSelectiveSearch",
    "ProposalCache",
    "SelectiveSearch",
    "Strategy",
    "fill_cache",
    "image_key",
    "propose_cached",
    "propose_example",
]
