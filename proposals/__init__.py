"""Proposals: engines that make candidate boxes of an image, and the offline cache of these boxes."""

from sppnet.proposals.cache import Key, ProposalCache
from sppnet.proposals.engine import Engine
from sppnet.proposals.fill import FillReport, fill_cache, image_key, propose_cached, propose_example
from sppnet.proposals.imported import ImportedBoxes
from sppnet.proposals.opencv import OpenCVSelectiveSearch
from sppnet.proposals.selective_search import SelectiveSearch, Strategy
from sppnet.proposals.stored_engine import engine_from_parameters

__all__ = [
    "Engine",
    "FillReport",
    "ImportedBoxes",
    "Key",
    "OpenCVSelectiveSearch",
    "ProposalCache",
    "SelectiveSearch",
    "Strategy",
    "engine_from_parameters",
    "fill_cache",
    "image_key",
    "propose_cached",
    "propose_example",
]
