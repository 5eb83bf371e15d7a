"""The default places of data sets, caches and runs, below the working folder."""

from pathlib import Path

VOC_ROOT = Path("datasets/VOCdevkit")
SAMPLE_ROOT = Path("datasets/sample")
PROPOSALS = Path("cache/proposals.sqlite")
MAPS = Path("cache/maps")
RUNS = Path("runs")
