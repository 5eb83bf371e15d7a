"""Fills the cache, several images at a time."""

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from joblib import Parallel, delayed

from sppnet.common.arrays import FloatArray, Image
from sppnet.common.errors import InputError
from sppnet.common.files import file_digest
from sppnet.data.images import decode_image, read_image
from sppnet.proposals.cache import Key, ProposalCache
from sppnet.proposals.engine import Engine, method_digest
from sppnet.proposals.source import FileAt, ImageSource, shared_file

# What came within this time of the last write waits for the next result: what a kill can lose.
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

    def complaint(self) -> str:
        """What to say of the errors, of which there must be some, where images may not be left out."""
        first = next(iter(self.errors.values()))
        return (
            f"{len(self.errors)} images have no proposals, the first: {first}; the other images are "
            "done: mend these and run again, or leave them out with --skip-errors"
        )


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


def propose_example(example: ImageFile, engine: Engine, cache: ProposalCache) -> FloatArray:
    """An example's windows from the cache; where they are missing, its file is read, and they are stored.

    Raises:
        InputError: the image file cannot be read.
    """
    return propose_cached(image_key(example), lambda: read_image(example.path), engine, cache)


class Task(NamedTuple):
    """What a worker gets: the image's key and where its file is."""

    key: Key
    file: FileAt


class Outcome(NamedTuple):
    """What comes back: the boxes, or what is wrong with the image."""

    key: Key
    boxes: FloatArray | None
    fault: str = ""


def _work(task: Task, engine: Engine, method: str) -> Outcome:
    """Runs in a worker.

    Raises:
        InputError: this machine's versions are not those that the boxes are to be stored under; no image
            of the run can be computed here.
    """
    if method_digest(engine) != method:
        raise InputError(
            f"the worker on {socket.gethostname()} has other versions of the engine or its libraries "
            f"({engine.parameters()}); install the same on all machines"
        )
    try:
        content = task.file.read()
        # The very bytes that are decoded: a file that changed meanwhile, or another copy of it at the worker,
        # must not be stored as the one that the key was made of.
        if hashlib.sha256(content).hexdigest() != task.key.image_digest:
            raise InputError(
                f"{task.file}: on {socket.gethostname()} the file is not the same as where the run was "
                "started, or has just changed; make them the same and run again"
            )
        return Outcome(
            task.key, engine.propose(decode_image(np.frombuffer(content, np.uint8), str(task.file)))
        )
    except InputError as error:
        return Outcome(task.key, None, str(error))
    # Whatever a library stumbles over in one image, the others go on.
    except Exception as error:
        return Outcome(task.key, None, f"{task.file}: proposals failed ({type(error).__name__}: {error})")


def fill_cache(
    examples: Sequence[ImageFile],
    engine: Engine,
    cache: ProposalCache,
    jobs: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
    source: ImageSource | None = None,
) -> FillReport:
    """Computes and stores the windows of every example that has none yet.

    It can be stopped at any moment; run again it goes on with what is missing. Images that cannot be read
    are counted and named in the report, and the others go on. Workers are joblib's: local processes, or
    those of the cluster when the call is inside `proposals.cluster.dask_cluster`. Only this process writes
    the cache.

    Files are hashed as workers ask for more, so that work begins at once however many there are, and all
    of them again at each run: a stored (path, size, time of change) would be faster, but serves stale boxes
    where a file of equal size was brought with its old time (rsync, tar, cp -p) or within the clock's tick.

    Args:
        examples: anything with ``image_id`` and ``path``.
        engine: the method, the one that ``cache`` was opened with.
        cache: where the boxes go.
        jobs: local processes, one thread each; 0 or -1 for one a core. A cluster uses all that it has.
        progress: called with (images done, images in all), at first with 0 done; one call at a time, but not
            all from one thread.
        source: where workers read the image files, if not at the examples' paths. The bytes must be the same.

    Raises:
        InputError: the cache cannot be written, a worker has other versions, or local workers were killed;
            what was computed before is kept.
    """
    report = FillReport()
    total, done = len(examples), 0
    one_at_a_time = threading.Lock()
    progress(0, total)

    def advance() -> None:
        nonlocal done
        with one_at_a_time:
            done += 1
            progress(done, total)

    def missing() -> Iterator[Any]:
        # joblib draws from here in a thread of its own, so the cache itself is not asked again.
        seen = cache.present()
        for example in examples:
            try:
                task = Task(
                    image_key(example),
                    source.locate(example.path) if source else shared_file(example.path),
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
            yield delayed(_work)(task, engine, cache.method)

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
        # Closed, so that after Ctrl-C no worker goes on for nobody.
        with closing(outcomes):
            try:
                for outcome in outcomes:
                    if outcome.boxes is None:
                        report.errors[outcome.key.image_id] = outcome.fault
                    else:
                        waiting.append((outcome.key, outcome.boxes))
                    if time.monotonic() - written > _COMMIT_SECONDS:
                        commit()
                        written = time.monotonic()
                    advance()
            finally:
                # Also after Ctrl-C: what was computed is kept.
                commit()
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process was killed, most often for want of memory; run again with fewer JOBS "
            "(what was computed is kept)"
        ) from error
    return report
