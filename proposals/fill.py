"""Fills the cache, several images at a time."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from joblib import Parallel, delayed

from data.files import file_digest
from data.images import read_image
from data.types import FloatArray, Image, InputError
from proposals.cache import Key, ProposalCache
from proposals.engine import Engine

# Entries wait at most this long before they are written: what a kill can lose.
_COMMIT_SECONDS = 1.0


class ImageFile(Protocol):
    """What is needed of an example."""

    @property
    def image_id(self) -> str: ...

    @property
    def path(self) -> Path: ...


@dataclass
class FillReport:
    """What `fill_cache` did.

    Attributes:
        cached: images that had an entry before.
        computed: images that got one.
        errors: image id to what is wrong with it.
    """

    cached: int = 0
    computed: int = 0
    errors: dict[str, str] = field(default_factory=dict)


def image_key(example: ImageFile) -> Key:
    """The example's key in the cache.

    Raises:
        InputError: the image file cannot be read.
    """
    try:
        return Key(example.image_id, file_digest(example.path))
    except OSError as error:
        raise InputError(f"{example.path}: cannot be read ({error.strerror}); check the path") from error


def propose_cached(key: Key, read: Callable[[], Image], engine: Engine, cache: ProposalCache) -> FloatArray:
    """An image's windows from the cache; where they are missing, it is read, and they are stored."""
    boxes = cache.get(key)
    if boxes is None:
        boxes = engine.propose(read())
        cache.put([(key, boxes)])
    return boxes


def _work(key: Key, path: Path, engine: Engine) -> tuple[Key, FloatArray | None, str]:
    try:
        return key, engine.propose(read_image(path)), ""
    except InputError as error:
        return key, None, str(error)
    # Whatever a library stumbles over in one image, the others go on.
    except Exception as error:
        return key, None, f"{path}: proposals failed ({type(error).__name__}: {error})"


def fill_cache(
    examples: Sequence[ImageFile],
    engine: Engine,
    cache: ProposalCache,
    jobs: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FillReport:
    """Computes and stores the windows of every example that has none yet.

    It can be stopped at any moment; run again it goes on with what is missing. Images that cannot be read
    are counted and named in the report, and the others go on. Workers are joblib's: a `parallel_config`
    around the call chooses another backend. Only this process writes the cache.

    Args:
        examples: anything with ``image_id`` and ``path``.
        engine: the method, the one that ``cache`` was opened with.
        cache: where the boxes go.
        jobs: processes, one thread each; 0 or -1 for one a core.
        progress: called with (images done, images in all).
    """
    report = FillReport()
    paths: dict[Key, Path] = {}
    for example in examples:
        try:
            paths[image_key(example)] = example.path
        except InputError as error:
            report.errors[example.image_id] = str(error)
    todo = cache.missing(paths)
    report.cached = len(paths) - len(todo)
    progress(report.cached, len(paths))
    results: Iterable[tuple[Key, FloatArray | None, str]] = Parallel(
        n_jobs=jobs or -1, return_as="generator_unordered", batch_size=1
    )(delayed(_work)(key, paths[key], engine) for key in todo)
    waiting: list[tuple[Key, FloatArray]] = []
    written = time.monotonic()
    try:
        for done, (key, boxes, fault) in enumerate(results, start=report.cached + 1):
            if boxes is None:
                report.errors[key.image_id] = fault
            else:
                waiting.append((key, boxes))
            if time.monotonic() - written > _COMMIT_SECONDS:
                cache.put(waiting)
                report.computed += len(waiting)
                waiting, written = [], time.monotonic()
            progress(done, len(paths))
    finally:
        # Also after Ctrl-C: what was computed is kept.
        cache.put(waiting)
        report.computed += len(waiting)
    return report
