"""The commands ``sppnet train`` and ``finetune``."""

from dataclasses import replace
from typing import Annotated

import typer

from sppnet.cli.command import Without, command
from sppnet.cli.options import DataOptions, HeadOptions, RunOptions, SettingsOptions
from sppnet.common.errors import InputError

_TrainData = Annotated[DataOptions, Without("test_split")]


@command
def train(
    dataset_name: Annotated[
        str, typer.Argument(metavar="DATASET", help="Another way to give --dataset.")
    ] = "",
    *,
    data: _TrainData,
    settings: SettingsOptions,
    run: RunOptions,
    head: Annotated[HeadOptions, Without("fc_rank", "bfloat16")],
) -> None:
    """Trains a detector; stopped at any moment, it goes on from there."""
    if dataset_name and data.dataset:
        raise InputError(f"give the data set once: {dataset_name}, or --dataset {data.dataset}")
    from sppnet.cli.datasets import ChosenDataset
    from sppnet.cli.settings import default_run_name, read_settings
    from sppnet.cli.terminal import say, say_written

    resolved = read_settings(settings)
    chosen = ChosenDataset(replace(data, dataset=dataset_name or data.dataset))

    from sppnet.cli.job import open_run, printing_pipeline

    # Before the data are read: a wrong head shows at once.
    opened = open_run(resolved, run, default_run_name(chosen.name, resolved, settings.preset), head)
    dataset = chosen.open(chosen.train_split)
    with printing_pipeline(opened, run.jobs, data.skip_errors) as pipeline:
        pipeline.train(dataset)
    say(f"now: sppnet predict PHOTO --model {opened.model}")
    say_written(opened.model)


@command
def finetune(*, data: _TrainData, settings: SettingsOptions, run: RunOptions) -> None:
    """Fine-tunes fully connected layers on a run's network; below torchrun, in several processes."""
    from rich.table import Table

    from sppnet.cli.datasets import ChosenDataset
    from sppnet.cli.job import open_run, printing_pipeline
    from sppnet.cli.settings import default_run_name, read_settings
    from sppnet.cli.terminal import console, say_written
    from sppnet.common.distributed import join_group
    from sppnet.common.text import percent

    with join_group() as group:
        console.quiet = group.rank > 0
        resolved = read_settings(settings)
        chosen = ChosenDataset(data)
        name = default_run_name(chosen.name, resolved, settings.preset)
        opened = open_run(resolved, run, name, HeadOptions(head="softmax"))
        if group.size > 1 and not replace(opened, head="pool5").trained:
            raise InputError(f"{opened.folder}: no model yet; run 'sppnet train' first, without torchrun")
        dataset = chosen.open(chosen.train_split)
        with printing_pipeline(opened, run.jobs, data.skip_errors, group) as pipeline:
            detector = pipeline.train(dataset)
    table = Table("step", "loss", "accuracy", "precision", title="held-out proposals, in % except the loss")
    tuning = detector.origin["finetuning"]
    for figures in tuning["history"]:
        mark = " (chosen)" if figures["step"] == tuning["chosen_step"] else ""
        table.add_row(
            f"{figures['step']}{mark}",
            f"{figures['loss']:.3f}",
            percent(figures["accuracy"]),
            percent(figures["precision"]),
        )
    console.print(table)
    say_written(opened.model)
