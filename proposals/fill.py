"""Computes the proposals of many images in parallel and stores them in the cache."""

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sppnet.common.arrays import FloatArray, Image
from sppnet.common.errors import InputError
from sppnet.data.images import image_digest, read_image
from sppnet.proposals.cache import Key, ProposalCache
from sppnet.proposals.engine import Engine
from sppnet.proposals.source import ImageSource, shared_file
from sppnet.proposals.worker import Outcome, Task, compute


class ImageFile(Protocol):
    """The part of an example that proposals need: its id and its image file."""

    @property
    def image_id(self) -> str: ...

    @property
    def path(self) -> Path: ...


def annotated_size(example: ImageFile) -> tuple[int, int] | None:
    """Width and height as the annotation states them, which decide on the orientation; None: unknown."""
    size: tuple[int, int] | None = getattr(example, "size", None)
    return size


@dataclass
class FillReport:
    """The result of `fill_cache`.

    Attributes:
        cached: number of images that had an entry before.
        computed: number of images that got an entry.
        errors: image id to the reason why the image got none.

    Example:
        >>> report = FillReport(computed=1, errors={"000005": "000005.jpg: the file is empty"})
        >>> report.complaint()  # doctest: +ELLIPSIS
        '1 images have no proposals, the first: 000005.jpg: the file is empty; ...'
    """

    cached: int = 0
    computed: int = 0
    errors: dict[str, str] = field(default_factory=dict)

    def complaint(self) -> str:
        """An error message for programs that need every image; `errors` must not be empty."""
        first = next(iter(self.errors.values()))
        return (
            f"{len(self.errors)} images have no proposals, the first: {first}; the other images are "
            "done: repair these and run again, or leave them out with --skip-errors"
        )


def image_key(example: ImageFile) -> Key:
    """The example's key in the cache: its id and the digest of its image, from `image_digest`.

    Args:
        example: anything with ``image_id`` and ``path``, and perhaps ``size``, the annotated one.

    Raises:
        InputError: the image file cannot be read.

    Example:
        >>> import tempfile
        >>> from types import SimpleNamespace
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "empty.png")
        ...     path.touch()
        ...     key = image_key(SimpleNamespace(image_id="000005", path=path))
        >>> key.image_id, key.image_digest[:12]
        ('000005', 'e3b0c44298fc')
    """
    try:
        return Key(example.image_id, image_digest(example.path, annotated_size(example)))
    except OSError as error:
        raise InputError(f"{example.path}: cannot be read ({error.strerror}); check the path") from error


def propose_cached(key: Key, read: Callable[[], Image], engine: Engine, cache: ProposalCache) -> FloatArray:
    """Returns an image's proposals from the cache; computes and stores them where they are missing.

    Args:
        key: of the image, from `image_key`.
        read: returns the image, uint8 (H, W, 3) RGB; called only where the proposals are missing.
        engine: the method, the one that ``cache`` was opened with.
        cache: where the proposals are kept.

    Returns:
        float32 (N, 4) xyxy, best first.

    Raises:
        InputError: the image cannot be read, or the cache cannot be read or written.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from sppnet.proposals import SelectiveSearch
        >>> engine = SelectiveSearch("single")
        >>> with tempfile.TemporaryDirectory() as folder, ProposalCache(f"{folder}/p.db", engine) as cache:
        ...     key = Key("gray", "0" * 64)
        ...     propose_cached(key, lambda: np.full((30, 40, 3), 128, np.uint8), engine, cache).tolist()
        ...     cache.missing([key])
        [[0.0, 0.0, 40.0, 30.0]]
        []
    """
    boxes = cache.get(key)
    if boxes is None:
        boxes = engine.propose(read())
        cache.put([(key, boxes)])
    return boxes


def propose_example(example: ImageFile, engine: Engine, cache: ProposalCache) -> FloatArray:
    """Returns an example's proposals from the cache; computes and stores them where they are missing.

    Args:
        example: anything with ``image_id`` and ``path``; its file is hashed at every call.
        engine: the method, the one that ``cache`` was opened with.
        cache: where the proposals are kept.

    Returns:
        float32 (N, 4) xyxy, best first.

    Raises:
        InputError: the image file cannot be read, or the cache cannot be read or written.

    Example:
        >>> import tempfile
        >>> from types import SimpleNamespace
        >>> import cv2
        >>> import numpy as np
        >>> from sppnet.proposals import SelectiveSearch
        >>> engine = SelectiveSearch("single")
        >>> with tempfile.TemporaryDirectory() as folder, ProposalCache(f"{folder}/p.db", engine) as cache:
        ...     example = SimpleNamespace(image_id="gray", path=Path(folder, "gray.png"))
        ...     _ = cv2.imwrite(str(example.path), np.full((30, 40, 3), 128, np.uint8))
        ...     propose_example(example, engine, cache).tolist()
        [[0.0, 0.0, 40.0, 30.0]]
    """

    def read() -> Image:
        return read_image(example.path, annotated=annotated_size(example))

    return propose_cached(image_key(example), read, engine, cache)


def fill_cache(
    examples: Sequence[ImageFile],
    engine: Engine,
    cache: ProposalCache,
    jobs: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
    source: ImageSource | None = None,
    commit_seconds: float = 1.0,
) -> FillReport:
    """Computes and stores the proposals of every example that has none yet.

    It can be stopped at any moment; the next run goes on with the missing images. Images that cannot be
    read are named in the report, and the others go on. The workers are joblib's: local processes, or those
    of a cluster when the call is inside `sppnet.proposals.cluster.dask_cluster`. Only this process writes
    the cache.

    Files are hashed as workers ask for more, so that work begins at once however many there are, and all
    of them again at each run: a stored (path, size, time of change) would be faster, but serves stale boxes
    where a file of equal size was brought with its old time (rsync, tar, cp -p) or within the clock's tick.

    Args:
        examples: anything with ``image_id`` and ``path``.
        engine: the method, the one that ``cache`` was opened with.
        cache: where the boxes go.
        jobs: number of local processes, one thread each; 0 or -1 for one a core. A cluster uses all of its
            workers.
        progress: called with (images done, images in all), first with 0 done; never by two threads at a
            time, but not always by the same thread.
        source: where workers read the image files, if not at the examples' paths. The bytes must be the same.
        commit_seconds: least time between two writes of the cache; a kill loses no more than the boxes that
            were computed within it. 0 writes after every image.

    Returns:
        how many images were computed, how many had an entry, and what is wrong with the others.

    Raises:
        InputError: the cache cannot be written, a worker has other versions, or local workers were killed;
            the boxes that were computed before are kept.

    Example:
        >>> import tempfile
        >>> from types import SimpleNamespace
        >>> import cv2
        >>> import numpy as np
        >>> from sppnet.proposals import SelectiveSearch
        >>> engine = SelectiveSearch("single")
        >>> with tempfile.TemporaryDirectory() as folder, ProposalCache(f"{folder}/p.db", engine) as cache:
        ...     examples = [SimpleNamespace(image_id=name, path=Path(folder, f"{name}.png")) for name in "ab"]
        ...     _ = cv2.imwrite(str(examples[0].path), np.full((30, 40, 3), 128, np.uint8))
        ...     report = fill_cache(examples, engine, cache)
        >>> report.computed, list(report.errors)
        (1, ['b'])
    """
    # Imported here: these cost more start-up than the rest of this module.
    from concurrent.futures.process import BrokenProcessPool

    from joblib import Parallel, delayed

    report = FillReport()
    total, done = len(examples), 0
    counting = threading.Lock()
    progress(0, total)

    def advance() -> None:
        nonlocal done
        with counting:
            done += 1
            progress(done, total)

    def missing() -> Iterator[Any]:
        # joblib draws the later tasks in a thread of its own, which must not use the cache's connection:
        # all keys are read before the first.
        seen = cache.present()
        for example in examples:
            try:
                task = Task(
                    image_key(example),
                    source.locate(example.path) if source else shared_file(example.path),
                    annotated_size(example),
                )
            except InputError as error:
                report.errors[example.image_id] = str(error)
                advance()
                continue
            if task.key in seen:
                report.cached += 1
                advance()
                continue
            seen.add(task.key)
            yield delayed(compute)(task, engine, cache.method)

    waiting: list[tuple[Key, FloatArray]] = []

    def commit() -> None:
        cache.put(waiting)
        report.computed += len(waiting)
        waiting.clear()

    try:
        outcomes: Generator[Outcome, None, None] = Parallel(
            n_jobs=jobs or -1, return_as="generator_unordered", batch_size=1
        )(missing())
        written = time.monotonic()
        # Closed, so that the workers stop after Ctrl-C.
        with closing(outcomes):
            try:
                for outcome in outcomes:
                    if outcome.boxes is None:
                        report.errors[outcome.key.image_id] = outcome.fault
                    else:
                        waiting.append((outcome.key, outcome.boxes))
                    if time.monotonic() - written >= commit_seconds:
                        commit()
                        written = time.monotonic()
                    advance()
            finally:
                # Also after Ctrl-C: the boxes computed so far are kept.
                commit()
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process was killed, most often for want of memory; run again with fewer JOBS "
            "(what was computed is kept)"
        ) from error
    return report
