"""Measures the start of our Selective Search: import and first image in a new process."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from sppnet.common.arrays import Image


@dataclass(frozen=True)
class Start:
    """Seconds in a new process: import, first image (compiles or loads compiled code), second image."""

    import_seconds: float
    first_seconds: float
    second_seconds: float


# Runs in a new process, in which nothing is imported or compiled yet.
START_SCRIPT = """
import sys, time
begin = time.perf_counter()
from sppnet.proposals import SelectiveSearch
imported = time.perf_counter()
import json, numpy
image = numpy.load(sys.argv[1])
seconds = []
for _ in range(2):
    start = time.perf_counter()
    SelectiveSearch("fast").propose(image)
    seconds.append(time.perf_counter() - start)
print(json.dumps([imported - begin, *seconds]))
"""


def measure_starts(image: Image, script: str = START_SCRIPT) -> tuple[Start, Start]:
    """Times a new process on an image twice: first with an empty cache of compiled code, then a filled one.

    Args:
        image: uint8 (H, W, 3), RGB.
        script: Python code that gets the path of the image as ``.npy`` and prints the values of `Start` as
            JSON.

    Returns:
        the times with the empty cache, and with the filled cache.

    Raises:
        subprocess.CalledProcessError: the process failed; it has printed the reason.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "image.npy"
        np.save(file, image)
        one_thread = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        environment = os.environ | one_thread | {"NUMBA_CACHE_DIR": str(Path(folder) / "numba")}
        command = [sys.executable, "-c", script, str(file)]
        outputs = [
            subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout
            for _ in range(2)
        ]
    empty, filled = (Start(*json.loads(output)) for output in outputs)
    return empty, filled


def starts_table(starts: tuple[Start, Start]) -> Table:
    """Makes the table of the two starts."""
    table = Table(title="ours, fast, in a new process: seconds")
    for column in ("", "import", "first image", "second image"):
        table.add_column(column, justify="right")
    for name, start in zip(("nothing compiled yet", "compiled before"), starts, strict=True):
        table.add_row(name, *(f"{value:.2f}" for value in asdict(start).values()))
    return table
