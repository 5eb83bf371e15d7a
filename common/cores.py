"""Counts the cores that this process may use, which may be fewer than the machine has."""

import os


def allowed_cores() -> int:
    """Returns the number of cores that this process may use, at least 1.

    It is the least of the machine's cores, those of the process's affinity (``taskset``, SLURM, ``docker
    --cpuset-cpus``), the share of a control group (``docker --cpus``, Kubernetes) rounded up, and the
    environment variable ``LOKY_MAX_CPU_COUNT``. joblib counts them, so its workers are as many.

    Example:
        >>> 1 <= allowed_cores() <= os.cpu_count()
        True
    """
    # Imported here, for it loads numpy, which the command line does without.
    from joblib import cpu_count

    return int(cpu_count())


def limit_torch_threads() -> None:
    """Makes torch compute with no more threads than there are allowed cores.

    torch itself sees the affinity, but not the share of a control group: with 2 of 64 cores it would run 64
    threads. A number that the user gives in ``OMP_NUM_THREADS`` stands.
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > allowed_cores():
        torch.set_num_threads(allowed_cores())
