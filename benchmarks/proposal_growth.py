"""Measures the time and memory of Selective Search for growing images.

    python -m benchmarks.proposal_growth FOLDER

Photographs of ``FOLDER`` are placed side by side and below each other until they fill an image of the wanted
size. Such an image has the detail of photographs; a single enlarged photograph has less. Every measurement
runs in a new process, on one thread, after a small image has loaded the compiled code.
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
    """Makes an image, uint8 (height, width, 3), of photographs; a row is cut to its lowest photograph."""
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
    """Measures seconds, peak memory added by the search (10^9 bytes), and the number of proposals."""
    engine(image[:64, :64])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    proposals = len(engine(image))
    seconds = time.perf_counter() - start
    # Linux counts in KiB.
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e9
    return seconds, added, proposals


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proposal_growth", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of photographs")
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
    for name in ("megapixels", "strategies", "seconds", "s/megapixel", "GB", "proposals"):
        table.add_column(name, justify="right")
    for megapixels in options.megapixels:
        width = round((megapixels * 1e6 * 4 / 3) ** 0.5)
        image = mosaic(paths, width, round(width * 3 / 4))
        for name, engine in engines.items():
            # A process for each, because the peak of a process never falls.
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                seconds, memory, proposals = process.submit(measure, engine, image).result()
            table.add_row(
                f"{megapixels}",
                name,
                f"{seconds:.2f}",
                f"{seconds / megapixels:.2f}",
                f"{memory:.2f}",
                f"{proposals}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
