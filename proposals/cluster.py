"""Computes proposals on the workers of a Dask cluster."""

from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Any

from joblib import parallel_config
from joblib._dask import DaskDistributedBackend

from sppnet.common.errors import InputError
from sppnet.proposals.worker import Outcome

# joblib queues twice as many images ahead; workers that join late take images from this queue.
_LEAST_JOBS = 100


@contextmanager
def dask_cluster(address: str, connect_seconds: float = 5, worker_seconds: float = 10) -> Iterator[None]:
    """Makes `fill_cache` compute on a cluster instead of local processes within a ``with`` block.

    A worker that dies or leaves is no error: other workers take its images. Workers may join at any time. If
    an image kills one worker after the other, it is given up and named after Dask's ``allowed-failures`` + 1
    (four) workers. All machines need this program in the same version. Anyone who reaches the scheduler can
    run code on all machines, so a cluster belongs in a trusted network, or behind Dask's TLS settings.

    Args:
        address: address of the scheduler, such as ``tcp://host:8786``.
        connect_seconds: time to wait for the scheduler's answer.
        worker_seconds: time to wait for the first worker.

    Raises:
        InputError: ``distributed`` is not installed; no scheduler answers at the address in time; it has no
            workers in time; or it goes away during the work.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError(
            f"a scheduler ({address}) needs the package distributed: pip install -e '.[dask]'"
        ) from error
    try:
        client = Client(  # type: ignore[no-untyped-call]
            address, timeout=connect_seconds, set_as_default=False
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"{address}: no Dask scheduler answers there ({error}); start one with 'dask scheduler' and give "
            "its address, such as tcp://host:8786"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=worker_seconds)
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
                f"{address}: the scheduler went away; start it and run again, the boxes so far are kept"
            ) from error


class _Backend(DaskDistributedBackend):  # type: ignore[misc]
    """joblib's Dask backend with a report for each task that Dask gives up; joblib would wait forever."""

    def effective_n_jobs(self, n_jobs: int) -> int:
        # joblib asks only once, before late workers have joined. With one job it would work in this process
        # and not on the cluster.
        return max(int(super().effective_n_jobs(n_jobs)), _LEAST_JOBS)

    def submit(self, func: Any, callback: Callable[[Any], None]) -> Any:
        (_, (task, *_), _) = func.items[0]  # `fill_cache` submits one image per call.
        future = super().submit(func, callback)

        def give_up(finished: "Future[Any]") -> None:
            from distributed import KilledWorker

            error = finished.exception()
            if isinstance(error, KilledWorker):
                died = error.allowed_failures + 1
                fault = (
                    f"{task.file}: given up after {died} workers died with it, perhaps out of memory; "
                    "run again to try again"
                )
                callback([Outcome(task.key, None, fault)])
            elif error is not None:
                # joblib raises it where `fill_cache` waits for the outcomes.
                callback(
                    InputError(
                        f"the cluster cannot run this ({error.__cause__ or error}); install the same program "
                        "on all machines, the scheduler's too"
                    )
                )

        future.add_done_callback(give_up)
        return future
