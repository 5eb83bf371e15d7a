"""From options to a run and its stages."""

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
    """The run that the options name.

    Args:
        settings: of the run.
        options: its name and its bound on stored maps.
        default_name: its name where the options give none.
        head: of the run; None: pool5.

    Raises:
        InputError: see `Run`.
    """
    head = head or HeadOptions()
    return Run(
        RUNS / (options.run or default_name), settings, open_cache(settings), MAPS, options.map_gb, head.head,
        head.fc_rank, head.bfloat16,
    )  # fmt: skip


@contextmanager
def printing_pipeline(
    run: Run, jobs: int = -1, skip_errors: bool = False, group: Group = ALONE
) -> Iterator[Pipeline]:
    """The stages of a run, which print what they do while this is open."""
    with ProgressReport(console) as progress:
        yield Pipeline(run, jobs, skip_errors, progress, say, group)
