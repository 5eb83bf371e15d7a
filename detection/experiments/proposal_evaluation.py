"""Engines of proposals, and boxes made elsewhere, evaluated side by side on a data set."""

import json
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from sppnet.common.errors import InputError
from sppnet.common.files import atomic_path
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

ENGINES = ("single", "fast", "quality", "opencv")

# More than OpenCV's eight groupings give for any image.
_UNLIMITED = 1_000_000


def make_engine(name: str, max_proposals: int | None = None, min_side: int = 20) -> Engine:
    """An engine by name: a mode of our Selective Search, or OpenCV's driven with the paper's fast mode.

    Args:
        name: one of `ENGINES`.
        max_proposals: keep at most so many; None for all.
        min_side: boxes with a side below this are dropped, in pixels.

    Raises:
        InputError: no such name (the nearest is named), or a number below 1.
    """
    match name:
        case "single" | "fast" | "quality":
            return SelectiveSearch(name, min_side=min_side, max_proposals=max_proposals)
        case "opencv":
            most = _UNLIMITED if max_proposals is None else max_proposals
            return OpenCVSelectiveSearch(min_side=min_side, max_proposals=most)
    nearest = get_close_matches(name, ENGINES, 1, cutoff=0)[0]
    raise InputError(f"no engine {name!r}; did you mean {nearest!r}? There are {', '.join(ENGINES)}")


def fill_engines(
    dataset: Dataset,
    engines: Mapping[str, Engine],
    cache_file: Path,
    jobs: int,
    skip_errors: bool,
    progress: Callable[[str, int, int], None],
) -> Dataset:
    """Computes the windows of every engine that are not in the cache yet.

    Args:
        dataset: the images.
        engines: by name.
        cache_file: of `ProposalCache`.
        jobs: processes; 0 or -1 for one a core.
        skip_errors: leave out images without windows, for all engines alike.
        progress: called with (what is done, images done, images in all).

    Returns:
        the images that all engines have windows of.

    Raises:
        InputError: an image cannot be searched; those that can be are in the cache then.
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
    """Evaluates cached windows and boxes of files, one after the other.

    Args:
        dataset: the images.
        engines: by name; what is not in the cache is computed.
        files: as `sppnet.proposals.exchange.read_boxes` takes them; each must know every image.
        cache_file: of `ProposalCache`.
        difficult: whether difficult objects count.

    Returns:
        by the engine's name, or by that of the file.

    Raises:
        InputError: a file cannot be read, or has no boxes of an image.
    """
    results = {}
    for name, engine in engines.items():
        with ProposalCache(cache_file, engine) as cache:
            windows = (propose_example(example, engine, cache) for example in dataset)
            results[name] = evaluate_proposals(dataset, windows, difficult=difficult)
    for file in files:
        by_id = exchange.read_boxes(file, dataset)
        lacking = [example.image_id for example in dataset if example.image_id not in by_id]
        if lacking:
            raise InputError(
                f"{file}: has no boxes of {len(lacking)} of the {len(dataset)} images, such as "
                f"{lacking[0]!r}; give the split that it was made for, or a smaller --limit"
            )
        name = file.name if file.name not in results else str(file)
        windows = (by_id[example.image_id] for example in dataset)
        results[name] = evaluate_proposals(dataset, windows, difficult=difficult)
    return results


def write_evaluation(
    folder: Path, results: Mapping[str, ProposalResult], about: Mapping[str, object]
) -> None:
    """Writes ``proposals.json`` and ``proposals.png`` into a folder, which is made.

    Args:
        folder: where to.
        results: by name.
        about: whatever the figures depend on: data set, split, parameters of the engines.
    """
    content = {**about, "methods": {name: proposals_dict(result) for name, result in results.items()}}
    with atomic_path(folder / "proposals.json") as path:
        path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    plot_proposals(folder / "proposals.png", results)
