"""Many images, one a core, so that none waits while another decodes or proposes."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from sppnet.common.arrays import Image
from sppnet.common.errors import InputError
from sppnet.common.prefetch import prefetch
from sppnet.data.images import read_image

Result = TypeVar("Result")


def one_a_core(
    work: Callable[[Image], Result], files: Sequence[Path], workers: int = 0
) -> Iterator[tuple[Path, Result | InputError]]:
    """Decodes each file and does some work on the image, each core on an image of its own with one thread.

    Args:
        work: safe to call at the same time; where it raises an `InputError`, the file's name goes before it.
        files: image files.
        workers: images at a time; 0: one a core. With one worker, all of torch's threads are its.

    Yields:
        file; the work's result, or why there is none; in the order of the files.
    """
    workers = min(workers or os.cpu_count() or 1, max(1, len(files)))

    def do(file: Path) -> Result | InputError:
        try:
            image = read_image(file)
        except InputError as error:
            return error
        try:
            return work(image)
        except InputError as error:
            return InputError(f"{file}: {error}")

    # One thread each, set by each for itself; with one worker, all of them are its.
    single = (lambda: torch.set_num_threads(1)) if workers > 1 else None
    before = torch.get_num_threads()
    try:
        results = prefetch(do, files, ahead=workers, workers=workers, initializer=single)
        yield from zip(files, results, strict=True)
    finally:
        torch.set_num_threads(before)
