"""Measures the cache of proposals as it grows: size, writing, reading in random order, resuming.

    python -m benchmarks.proposal_cache [--images 100000] [--boxes 2000] [--folder FOLDER]

A file is filled with random boxes, and measured when it holds 1,000, 10,000, ... images, which shows costs
that grow with the number of images. It is written to ``--folder`` (100,000 images of 2,000 boxes take 1.7 GB)
and removed at the end, even after Ctrl-C.
"""

import argparse
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from sppnet.common.arrays import FloatArray, Image
from sppnet.common.errors import InputError
from sppnet.proposals.cache import Key, ProposalCache

# Number of images in one transaction: about as many as 75 workers compute in the second between two commits.
_BATCH = 50
_READS = 1000
# Number of arrays of boxes that are made before the measurement and used in turn.
_ARRAYS = 97


@dataclass(frozen=True)
class _RandomBoxes:
    """An engine whose parameters are the key of the stored boxes."""

    boxes: int

    def propose(self, image: Image) -> FloatArray:
        raise InputError("the benchmark of the cache computes no proposals")

    def parameters(self) -> dict[str, Any]:
        return {"engine": "made up", **asdict(self)}


@dataclass(frozen=True)
class Figures:
    """The costs of the cache at one size, in bytes and in seconds per image.

    Cold times are measured right after the file's pages were dropped from the system's memory.

    Attributes:
        images: number of images in the cache.
        bytes: size of the file, after its journal was written back.
        write: mean over the images added since the previous size, including commits and write-back to disk.
        read, read_cold: time of `ProposalCache.get` in random order.
        resume, resume_cold: time to open the cache and to call `ProposalCache.missing` for all its images;
            image files are not hashed.
    """

    images: int
    bytes: int
    write: float
    read: float
    read_cold: float
    resume: float
    resume_cold: float


def measure(folder: Path, images: int, boxes: int, seed: int = 0) -> Iterator[Figures]:
    """Fills a cache in ``folder``; yields the figures at 1,000, 10,000, ... images and at ``images``."""
    rng = np.random.default_rng(seed)
    arrays = [_make_boxes(rng, boxes) for _ in range(_ARRAYS)]
    keys = [Key(f"{i:08d}", hashlib.sha256(str(i).encode()).hexdigest()) for i in range(images)]
    entries = ((key, arrays[i % _ARRAYS]) for i, key in enumerate(keys))
    engine = _RandomBoxes(boxes)
    path = folder / "proposals.sqlite"
    written = 0
    while written < images:
        size = min(images, max(1000, 10 * written))
        start = time.perf_counter()
        with ProposalCache(path, engine) as cache:
            for position in range(written, size, _BATCH):
                cache.put(islice(entries, min(_BATCH, size - position)))
        _sync(path)
        write = (time.perf_counter() - start) / (size - written)
        written = size
        _drop(path)
        resume_cold, resume = (_resume(path, engine, keys[:size]) for _ in range(2))
        chosen = rng.choice(size, min(_READS, size), replace=False)
        _drop(path)
        with ProposalCache(path, engine) as cache:
            read_cold, read = (_read(cache, keys, arrays, chosen) for _ in range(2))
        yield Figures(size, path.stat().st_size, write, read, read_cold, resume, resume_cold)


def _make_boxes(rng: np.random.Generator, count: int) -> FloatArray:
    """Returns float32 (count, 4) whole-numbered xyxy boxes in an image of 500 x 375 pixels."""
    corners = np.sort(rng.integers(0, [[[500, 375]]], (count, 2, 2)), axis=1)
    corners[:, 1] += 1
    return corners.reshape(count, 4).astype(np.float32)


def _read(cache: ProposalCache, keys: list[Key], arrays: list[FloatArray], chosen: Any) -> float:
    """Measures seconds per image to read the chosen entries; their comparison is not timed."""
    spent = 0.0
    for i in chosen:
        start = time.perf_counter()
        boxes = cache.get(keys[i])
        spent += time.perf_counter() - start
        if boxes is None or not np.array_equal(boxes, arrays[i % _ARRAYS]):
            raise RuntimeError(f"entry {keys[i].image_id} has other boxes than were written")
    return spent / len(chosen)


def _resume(path: Path, engine: _RandomBoxes, keys: list[Key]) -> float:
    """Measures seconds per image to determine that no image is missing."""
    start = time.perf_counter()
    with ProposalCache(path, engine) as cache:
        missing = cache.missing(keys)
    spent = time.perf_counter() - start
    if missing:
        raise RuntimeError(f"{len(missing)} of {len(keys)} entries are not in the cache")
    return spent / len(keys)


def _sync(path: Path) -> None:
    """Waits until the file is on the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _drop(path: Path) -> None:
    """Drops the file's pages from the system's memory, if the system supports it."""
    if hasattr(os, "posix_fadvise"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proposal_cache")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--boxes", type=int, default=2000, help="boxes per image")
    parser.add_argument("--folder", type=Path, default=Path("cache"), help="folder for the file")
    options = parser.parse_args()
    if min(options.images, options.boxes) < 1:
        parser.error("give at least one image and one box")
    options.folder.mkdir(parents=True, exist_ok=True)
    table = Table(
        "images", "GB", "bytes per box", "write", "read", "cold read", "resume", "cold resume",
        "resume all, s",
        title=f"{options.boxes} boxes per image; ms per image", title_justify="left",
    )  # fmt: skip
    console = Console()
    with tempfile.TemporaryDirectory(prefix="bench-cache-", dir=options.folder) as folder:
        for figures in measure(Path(folder), options.images, options.boxes):
            times = figures.write, figures.read, figures.read_cold, figures.resume, figures.resume_cold
            table.add_row(
                f"{figures.images}",
                f"{figures.bytes / 1e9:.3f}",
                f"{figures.bytes / figures.images / options.boxes:.2f}",
                *(f"{1e3 * seconds:.3f}" for seconds in times),
                f"{figures.images * figures.resume:.2f}",
            )
            console.print(f"{figures.images} images measured", highlight=False)
    console.print(table)


if __name__ == "__main__":
    main()
