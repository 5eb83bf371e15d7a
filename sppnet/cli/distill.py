"""The command ``sppnet distill``."""

import json
from typing import Annotated

import typer

from sppnet.cli.command import Without, command
from sppnet.cli.options import Cache, Changes, Config, DataOptions, MapGb
from sppnet.common.folders import CACHE, MAPS, RUNS


@command
def distill(
    *,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            help="'efficientnet_lite0 576 400 288': name[=weights] or model folder, then a short side for "
            "each of 'scales'; 'labels': the annotated boxes. Repeatable."
        ),
    ] = None,
    run: Annotated[str, typer.Option(help="Folder below runs/ for weights and figures.")] = "distilled",
    config: Config = None,
    change: Changes = None,
    map_gb: MapGb = 20.0,
    cache: Cache = CACHE,
    data: Annotated[DataOptions, Without("test_split", "skip_errors")],
) -> None:
    """Trains zf5's convolutions to reproduce the maps of stronger networks, from images alone."""
    from rich.table import Table

    from sppnet.cli.datasets import ChosenDataset
    from sppnet.cli.progress import ProgressReport
    from sppnet.cli.terminal import console, say, say_written
    from sppnet.common.settings import changed
    from sppnet.common.text import percent
    from sppnet.detection.distillation.distill_run import DistillRun
    from sppnet.detection.distillation.settings import DistillSettings

    settings = changed(DistillSettings(), config, change or ())
    if teacher:
        settings = changed(settings, None, [f"teachers = {json.dumps(teacher)}"])
    chosen = ChosenDataset(data)
    training = DistillRun(RUNS / run, settings)
    with ProgressReport(console) as progress:
        dataset = chosen.open(chosen.train_split)
        points = training.run(dataset, cache / MAPS, int(map_gb * 1e9), progress)
    if points is None:
        say(f"weights: {training.weights} (trained before)")
    else:
        table = Table(
            "step",
            "minutes",
            *settings.teachers,
            title="variance of held-out maps explained, %, by feature level",
        )
        for point in points:
            explained = (" ".join(percent(part) for part in parts) for parts in point.explained)
            table.add_row(str(point.step), f"{point.seconds / 60:.1f}", *explained)
        console.print(table)
    say_written(training.weights, training.history)
