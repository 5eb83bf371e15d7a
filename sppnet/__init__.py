"""The SPP-net object detector."""

import os

# PyTorch then asks Linux for huge pages for large tensors (others ignore it). Without them ZF-5, whose first
# maps are the largest, spends a quarter of its time on page faults. Read by PyTorch when it makes its first
# tensor, so set before anything else is imported.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
