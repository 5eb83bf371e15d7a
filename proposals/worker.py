"""The part of filling the cache that runs in a worker: one image's proposals, without the cache."""

import socket
from typing import NamedTuple

import numpy as np

from sppnet.common.arrays import FloatArray
from sppnet.common.errors import InputError
from sppnet.data.images import content_digest, decode_image
from sppnet.proposals.cache import Key
from sppnet.proposals.engine import Engine, method_digest
from sppnet.proposals.source import FileAt


class Task(NamedTuple):
    """The work for one image: its key in the cache, where its file is, and the annotated size."""

    key: Key
    file: FileAt
    annotated: tuple[int, int] | None = None


class Outcome(NamedTuple):
    """The result of a task.

    Attributes:
        key: of the image.
        boxes: float32 (N, 4) xyxy; None where the image failed.
        fault: why the image failed.
    """

    key: Key
    boxes: FloatArray | None
    fault: str = ""


def compute(task: Task, engine: Engine, method: str) -> Outcome:
    """Computes the proposals of one image.

    Args:
        task: the image.
        engine: the method.
        method: digest of the engine's parameters where the run was started.

    Returns:
        the boxes, or what is wrong with the image.

    Raises:
        InputError: the engine's versions on this machine are not those that the boxes are to be stored
            under; this machine can compute no image of the run.
    """
    if method_digest(engine) != method:
        raise InputError(
            f"the worker on {socket.gethostname()} has other versions of the engine or its libraries "
            f"({engine.parameters()}); install the same on all machines"
        )
    try:
        content = task.file.read()
        # The bytes that are decoded are checked: boxes of a file that has changed since, or of a worker's
        # different copy, must not be stored under the digest of the first file.
        if content_digest(content, task.annotated) != task.key.image_digest:
            raise InputError(
                f"{task.file}: on {socket.gethostname()} the file is not the same as where the run was "
                "started, or has just changed; make them the same and run again"
            )
        encoded = np.frombuffer(content, np.uint8)
        image = decode_image(encoded, str(task.file), annotated=task.annotated)
        return Outcome(task.key, engine.propose(image))
    except InputError as error:
        return Outcome(task.key, None, str(error))
    # Whatever a library raises for one image, the other images go on.
    except Exception as error:
        return Outcome(task.key, None, f"{task.file}: proposals failed ({type(error).__name__}: {error})")
