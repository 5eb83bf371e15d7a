"""Prepares the next items in other threads while the caller works on the present one."""

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
    """Computes ``map(function, items)`` in other threads, in order, at most ``ahead`` results early.

    If the function raises an exception, the iterator raises it instead of yielding the result.

    Args:
        function: with more than one worker, several threads call it at the same time.
        items: the function's arguments.
        ahead: the number of results that may wait.
        workers: the number of threads.
        initializer: called once in each thread, before the function.

    Example:
        >>> list(prefetch(abs, [-1, 2, -3]))
        [1, 2, 3]
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
