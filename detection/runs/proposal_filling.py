"""The first stage of a run: computes the proposals of a split, without network and torch."""

import logging
import time
from collections.abc import Callable, Mapping

from sppnet.common.errors import InputError
from sppnet.common.progress import Progress, quiet
from sppnet.data.examples import size_faults
from sppnet.data.types import Dataset
from sppnet.proposals import Engine, ProposalCache, fill_cache
from sppnet.proposals.source import ImageSource

_LOG = logging.getLogger(__name__)


def fill_proposals(
    dataset: Dataset,
    engine: Engine,
    cache: ProposalCache,
    jobs: int = -1,
    skip_errors: bool = False,
    progress: Progress = quiet,
    report: Callable[[str], None] = _LOG.info,
    source: ImageSource | None = None,
) -> Dataset:
    """Fills a cache with the proposals of a split.

    Args:
        dataset: the split.
        engine: proposes boxes.
        cache: the cache of this engine's proposals.
        jobs: number of processes; -1: one per core.
        skip_errors: whether images that cannot be used are left out and counted, instead of an error.
        progress: called with the stage's name, the images done, and the images in total.
        report: called with sentences for people: the number of computed images and of left-out images.
        source: where workers on other machines read the images; None: the same paths as here.

    Returns:
        the images that have proposals; without ``skip_errors``, all images.

    Raises:
        InputError: without ``skip_errors``, an image is smaller than annotated, or cannot be read.
    """

    def leave_out(faults: Mapping[str, str], complaint: str) -> None:
        if not skip_errors:
            raise InputError(complaint)
        report(f"{len(faults)} images left out, the first: {next(iter(faults.values()))}")

    faults = size_faults(dataset)
    if faults:
        leave_out(
            faults,
            f"{len(faults)} images do not fit their annotations, the first: {next(iter(faults.values()))}; "
            "or leave them out with --skip-errors",
        )
        dataset = dataset.without(faults)
    start = time.monotonic()
    filled = fill_cache(
        dataset, engine, cache, jobs,
        lambda done, total: progress(f"proposals ({dataset.split})", done, total), source,
    )  # fmt: skip
    report(
        f"proposals ({dataset.split}): {filled.computed} images computed in "
        f"{time.monotonic() - start:.0f} s, {filled.cached} in the cache"
    )
    if filled.errors:
        leave_out(filled.errors, filled.complaint())
    return dataset.without(filled.errors)
