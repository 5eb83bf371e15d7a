"""Preparing the next images while the present one is worked on."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    ahead: int = 2,
    workers: int = 1,
    initializer: Callable[[], object] | None = None,
) -> Iterator[Result]:
    """``map(function, items)`` in their order, computed in other threads, at most ``ahead`` results early.

    An exception of the function is raised where its result would have come.

    Args:
        function: with more than one worker, it must be safe to call at the same time.
        items: its arguments.
        ahead: how many results may wait.
        workers: threads.
        initializer: called by each thread first.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers, initializer=initializer) as executor:
        try:
            for item in items:
                waiting.append(executor.submit(function, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
