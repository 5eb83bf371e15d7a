"""Many images, one a core, so that no core waits while another decodes or proposes."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from sppnet.common.arrays import Image
from sppnet.common.cores import allowed_cores
from sppnet.common.errors import InputError
from sppnet.common.prefetch import prefetch
from sppnet.data.images import read_image
from sppnet.data.types import Example

Result = TypeVar("Result")
# An image file, an array uint8 (H, W, 3) RGB, an `Example`, or a PIL image, of which nothing is imported.
ImageSource = Path | str | Image | Any
Source = TypeVar("Source")


def as_image(source: ImageSource) -> Image:
    """An image as uint8 (H, W, 3) RGB.

    Args:
        source: an image file, an array of this form, an annotated image, or a PIL image of any mode.

    Raises:
        InputError: the file is no image, or the array has another form.

    Example:
        >>> as_image(np.zeros((2, 3, 3), np.uint8)).shape
        (2, 3, 3)
    """
    if isinstance(source, Path | str):
        return read_image(source)
    if isinstance(source, Example):
        return source.read()
    if hasattr(source, "convert") and hasattr(source, "mode"):
        source = _pixels_of_pil(source)
    if not isinstance(source, np.ndarray):
        raise InputError(
            f"an image of type {type(source).__name__}; give a file, uint8 (height, width, 3) RGB, or a PIL "
            "image"
        )
    if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or 0 in source.shape:
        raise InputError(f"the image is {source.dtype} {source.shape}; give uint8 (height, width, 3), RGB")
    return source


def _pixels_of_pil(image: Any) -> Image:
    try:
        return np.asarray(image.convert("RGB"))
    # PIL reads a file when its pixels are asked for; its decoders raise errors of many types.
    except Exception as error:
        name = getattr(image, "filename", "") or "the PIL image"
        raise InputError(f"{name}: cannot be decoded ({error}); fetch the image again") from error


def one_a_core(
    work: Callable[[Image], Result], sources: Sequence[Source], workers: int = 0
) -> Iterator[tuple[Source, Result | InputError]]:
    """Works on each image; each core takes an image of its own, with one thread.

    Args:
        work: safe to call at the same time; where it raises an `InputError`, the file's name goes before it.
        sources: images; see `as_image`.
        workers: images at a time; 0 or less: one a core. A single worker has all of torch's threads.

    Yields:
        source; the result, or why there is none; in the order of the sources.
    """
    workers = min(workers if workers > 0 else allowed_cores(), max(1, len(sources)))

    def do(source: Source) -> Result | InputError:
        try:
            image = as_image(source)
        except InputError as error:
            return error
        try:
            return work(image)
        except InputError as error:
            name = source.path if isinstance(source, Example) else source
            return InputError(f"{name}: {error}") if isinstance(name, Path | str) else error

    # A thread sets this for itself; a single worker has all of them.
    initializer = (lambda: torch.set_num_threads(1)) if workers > 1 else None
    before = torch.get_num_threads()
    try:
        results = prefetch(do, sources, ahead=workers, workers=workers, initializer=initializer)
        yield from zip(sources, results, strict=True)
    finally:
        torch.set_num_threads(before)
