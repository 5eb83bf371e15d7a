"""joblib's work on the workers of a Dask cluster."""

from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Any

from joblib import parallel_config
from joblib._dask import DaskDistributedBackend

from sppnet.common.errors import InputError
from sppnet.proposals.fill import Outcome

_CONNECT_SECONDS = 5
_WORKER_SECONDS = 10
# Twice as many images are handed out ahead: those of workers that join later come from these.
_LEAST_PLACES = 100


@contextmanager
def dask_cluster(address: str) -> Iterator[None]:
    """Within this context, `fill_cache` computes on a cluster instead of local processes.

    A worker that dies or leaves is no fault: its images go to the others; workers may join at any time. An
    image that one worker after the other dies with (Dask's ``allowed-failures`` + 1 of them: four) is given
    up and named. All machines need this program in the same version; whoever reaches the scheduler can run
    code on them, so a cluster belongs in a trusted network, or behind Dask's TLS settings.

    Args:
        address: of the scheduler, ``tcp://host:8786``.

    Raises:
        InputError: ``distributed`` is not installed; nothing answers at the address within 5 s; there is
            no worker within 10 s; or the scheduler goes away during the work.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError(
            f"a scheduler ({address}) needs the package distributed: pip install -e '.[dask]'"
        ) from error
    try:
        client = Client(  # type: ignore[no-untyped-call]
            address, timeout=_CONNECT_SECONDS, set_as_default=False
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"{address}: no Dask scheduler answers there ({error}); start one with 'dask scheduler' and give "
            "its address, such as tcp://host:8786"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_WORKER_SECONDS)
        except TimeoutError as error:
            raise InputError(
                f"{address}: the scheduler has no workers; start some with "
                f"'dask worker {address} --nworkers -1 --nthreads 1'"
            ) from error
        try:
            with parallel_config(backend=_Backend(client=client)):
                yield
        except CancelledError as error:
            raise InputError(
                f"{address}: the scheduler went away; start it and run again, what was computed is kept"
            ) from error


class _Backend(DaskDistributedBackend):  # type: ignore[misc]
    """joblib's, mended: with its own, a task that Dask gives up on is waited for without end."""

    def effective_n_jobs(self, n_jobs: int) -> int:
        # joblib asks only once, before workers have joined that come late; and of one place it makes work
        # in this process, not on the cluster.
        return max(int(super().effective_n_jobs(n_jobs)), _LEAST_PLACES)

    def submit(self, func: Any, callback: Callable[[Any], None]) -> Any:
        (_, (task, *_), _) = func.items[0]  # of `fill_cache`, which hands out images one by one
        future = super().submit(func, callback)

        def give_up(done: "Future[Any]") -> None:
            from distributed import KilledWorker

            error = done.exception()
            if isinstance(error, KilledWorker):
                died = error.allowed_failures + 1
                fault = (
                    f"{task.file}: given up, {died} workers died that had it, perhaps for want of memory; "
                    "run again to try again"
                )
                callback([Outcome(task.key, None, fault)])
            elif error is not None:
                # joblib raises it where the outcomes are awaited.
                callback(
                    InputError(
                        f"the cluster cannot run this ({error.__cause__ or error}); install the same program "
                        "on all machines, the scheduler's too"
                    )
                )

        future.add_done_callback(give_up)
        return future
