"""Our own implementation of the paper's Selective Search, compiled by numba at first use."""

from sppnet.proposals.selective_search.search import MODES, Grouped, SelectiveSearch, Strategy, distinct

__all__ = ["MODES", "Grouped", "SelectiveSearch", "Strategy", "distinct"]
