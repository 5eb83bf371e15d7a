"""Opens the run and the pipeline that a command's options describe."""

from collections.abc import Iterator
from contextlib import contextmanager

from sppnet.cli.options import HeadOptions, RunOptions
from sppnet.cli.progress import ProgressReport
from sppnet.cli.settings import open_cache
from sppnet.cli.terminal import console, say
from sppnet.common.distributed import ALONE, Group
from sppnet.common.folders import MAPS, RUNS
from sppnet.detection.runs.pipeline import Pipeline
from sppnet.detection.runs.run import Run
from sppnet.detection.training.presets import RunSettings


def open_run(
    settings: RunSettings, options: RunOptions, default_name: str = "", head: HeadOptions | None = None
) -> Run:
    """Opens the run that the options name.

    Args:
        settings: the settings of the run.
        options: the name of the run, the folder of caches and the limit on stored maps.
        default_name: the name of the run if the options give none.
        head: the head of the run; None: pool5.

    Raises:
        InputError: see `Run`.
    """
    head = head or HeadOptions()
    return Run(
        RUNS / (options.run or default_name), settings, open_cache(options.cache, settings),
        options.cache / MAPS, options.map_gb, head.head, head.fc_rank, head.bfloat16,
    )  # fmt: skip


@contextmanager
def printing_pipeline(
    run: Run, jobs: int = -1, skip_errors: bool = False, group: Group = ALONE
) -> Iterator[Pipeline]:
    """Gives the pipeline of a run; its stages print their progress within the ``with`` block."""
    with ProgressReport(console) as progress:
        yield Pipeline(run, jobs, skip_errors, progress, say, group)
