"""The default places of data sets, caches and runs, below the working folder."""

from pathlib import Path

VOC_ROOT = Path("datasets/VOCdevkit")
SAMPLE_ROOT = Path("datasets/sample")
CACHE = Path("cache")
RUNS = Path("runs")
# In the folder of caches.
PROPOSALS = "proposals.sqlite"
MAPS = "maps"
