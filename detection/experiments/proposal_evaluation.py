"""Evaluates proposal engines, and boxes of other programs, side by side on a data set."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from sppnet.common.arrays import FloatArray
from sppnet.common.errors import InputError
from sppnet.common.files import write_json
from sppnet.common.progress import Progress
from sppnet.data import Dataset
from sppnet.eval import ProposalResult, evaluate_proposals, plot_proposals, proposals_dict
from sppnet.proposals import (
    Engine,
    OpenCVSelectiveSearch,
    ProposalCache,
    SelectiveSearch,
    exchange,
    fill_cache,
    propose_example,
)

# Our Selective Search in the paper's three modes, and OpenCV's Selective Search.
ENGINES = ("single", "fast", "quality", "opencv")

# More proposals than OpenCV's eight groupings make for any image.
_UNLIMITED = 1_000_000


def make_engine(name: str, max_proposals: int | None = None, min_side: int = 20) -> Engine:
    """Makes an engine by name: a mode of our Selective Search, or OpenCV's with the paper's fast mode.

    Args:
        name: one of `ENGINES`.
        max_proposals: largest number of proposals per image; None: all are kept.
        min_side: boxes with a side below this are dropped, in pixels.

    Raises:
        InputError: there is no such name (the nearest is named), or a number is below 1.

    Example:
        >>> make_engine("quality", max_proposals=2000).max_proposals
        2000
    """
    match name:
        case "single" | "fast" | "quality":
            return SelectiveSearch(name, min_side=min_side, max_proposals=max_proposals)
        case "opencv":
            bound = _UNLIMITED if max_proposals is None else max_proposals
            return OpenCVSelectiveSearch(min_side=min_side, max_proposals=bound)
    nearest = get_close_matches(name, ENGINES, 1, cutoff=0)[0]
    raise InputError(f"no engine {name!r}; did you mean {nearest!r}? There are {', '.join(ENGINES)}")


def fill_engines(
    dataset: Dataset,
    engines: Mapping[str, Engine],
    cache_file: Path,
    jobs: int,
    skip_errors: bool,
    progress: Progress,
) -> Dataset:
    """Computes the proposals of every engine that are not in the cache yet.

    Args:
        dataset: the images.
        engines: name to engine.
        cache_file: the file of the `ProposalCache`.
        jobs: number of processes; 0 or -1: one per core.
        skip_errors: whether images that cannot be searched are left out, for all engines, instead of an
            error.
        progress: called with the stage's name, the images done, and the images in total.

    Returns:
        the images for which all engines have proposals.

    Raises:
        InputError: without ``skip_errors``, an image cannot be searched; the cache then has the proposals of
            the other images.
    """
    for name, engine in engines.items():
        with ProposalCache(cache_file, engine) as cache:
            report = fill_cache(dataset, engine, cache, jobs, partial(progress, f"proposals ({name})"))
        if report.errors and not skip_errors:
            raise InputError(f"{name}: {report.complaint()}")
        dataset = dataset.without(report.errors)
    return dataset


def evaluate_engines(
    dataset: Dataset,
    engines: Mapping[str, Engine],
    files: Sequence[Path],
    cache_file: Path,
    difficult: bool = False,
) -> dict[str, ProposalResult]:
    """Evaluates the proposals of engines and the boxes of files.

    Args:
        dataset: images with ground truth.
        engines: name to engine; proposals that are not in the cache are computed.
        files: files for `sppnet.proposals.exchange.read_boxes`; each must have boxes of every image.
        cache_file: the file of the `ProposalCache`.
        difficult: whether difficult objects count.

    Returns:
        name of the engine or of the file to its figures.

    Raises:
        InputError: a file cannot be read, or has no boxes of an image.
    """
    results = {}
    for name, engine in engines.items():
        with ProposalCache(cache_file, engine) as cache:
            proposals = (propose_example(example, engine, cache) for example in dataset)
            results[name] = evaluate_proposals(dataset, proposals, difficult=difficult)
    for file in files:
        boxes = read_file_boxes(file, dataset)
        name = file.name if file.name not in results else str(file)
        proposals = (boxes[example.image_id] for example in dataset)
        results[name] = evaluate_proposals(dataset, proposals, difficult=difficult)
    return results


def read_file_boxes(file: Path, dataset: Dataset) -> dict[str, FloatArray]:
    """Reads the boxes of all images of a data set from a file of another program.

    Args:
        file: see `sppnet.proposals.exchange.read_boxes`.
        dataset: the images.

    Returns:
        image id to float32 (N, 4), xyxy, pixel edges.

    Raises:
        InputError: the file cannot be read, or has no boxes of an image.
    """
    boxes = exchange.read_boxes(file, dataset)
    lacking = [example.image_id for example in dataset if example.image_id not in boxes]
    if lacking:
        raise InputError(
            f"{file}: has no boxes of {len(lacking)} of the {len(dataset)} images, such as "
            f"{lacking[0]!r}; give the split that it was made for, or a smaller --limit"
        )
    return boxes


def write_evaluation(
    folder: Path, results: Mapping[str, ProposalResult], about: Mapping[str, object]
) -> None:
    """Writes ``proposals.json`` and ``proposals.png`` into a folder, which is created if it is missing.

    Args:
        folder: the folder to write to.
        results: name of the method to its figures.
        about: JSON values that the figures depend on: data set, split, parameters of the engines.
    """
    content = {**about, "methods": {name: proposals_dict(result) for name, result in results.items()}}
    write_json(folder / "proposals.json", content, indent=1)
    plot_proposals(folder / "proposals.png", results)
