"""How time and memory of Selective Search grow with the image.

    python -m benchmarks.proposal_growth FOLDER

Photographs of ``FOLDER`` are laid side by side and below each other until they fill an image of the size
asked for: detail does not thin out as in one photograph made larger. Every measurement is of a process of its
own, on one thread, its kernels loaded by a small image before.
"""

import argparse
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from sppnet.common.arrays import Image
from sppnet.common.errors import InputError
from sppnet.data.images import read_image
from sppnet.proposals.selective_search import SelectiveSearch

_SUFFIXES = {".jpg", ".jpeg", ".png"}
_MEGAPIXELS = (0.1, 0.3, 1.0, 3.0, 12.0)


def mosaic(paths: list[Path], width: int, height: int) -> Image:
    """uint8 (height, width, 3): rows of photographs, each cut at the right and at the lowest of its row."""
    rows: list[Image] = []
    filled = number = 0
    while filled < height:
        row: list[Image] = []
        across = 0
        while across < width:
            row.append(read_image(paths[number % len(paths)]))
            across += row[-1].shape[1]
            number += 1
        low = min(photograph.shape[0] for photograph in row)
        rows.append(np.concatenate([photograph[:low] for photograph in row], axis=1)[:, :width])
        filled += low
    return np.concatenate(rows)[:height]


def measure(engine: SelectiveSearch, image: Image) -> tuple[float, float, int]:
    """Seconds, peak memory added by the search in 10^9 bytes, and the number of windows."""
    engine(image[:64, :64])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    windows = len(engine(image))
    seconds = time.perf_counter() - start
    # Linux counts in KiB.
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e9
    return seconds, added, windows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proposal_growth", description=__doc__)
    parser.add_argument("folder", type=Path, help="of photographs")
    parser.add_argument("--megapixels", type=float, nargs="+", default=_MEGAPIXELS)
    options = parser.parse_args()
    paths = sorted(path for path in options.folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise InputError(f"{options.folder}: no images")
    engines = {
        "fast": SelectiveSearch(max_pixels=None, max_proposals=None),
        "fast, at most 1 megapixel": SelectiveSearch(max_proposals=None),
    }
    table = Table(title=f"{options.folder}: photographs side by side, 4:3")
    for name in ("megapixels", "strategies", "seconds", "s/megapixel", "GB", "windows"):
        table.add_column(name, justify="right")
    for megapixels in options.megapixels:
        width = round((megapixels * 1e6 * 4 / 3) ** 0.5)
        image = mosaic(paths, width, round(width * 3 / 4))
        for name, engine in engines.items():
            # A new process each, for a process never forgets its peak.
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                seconds, memory, windows = process.submit(measure, engine, image).result()
            table.add_row(
                f"{megapixels}",
                name,
                f"{seconds:.2f}",
                f"{seconds / megapixels:.2f}",
                f"{memory:.2f}",
                f"{windows}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
