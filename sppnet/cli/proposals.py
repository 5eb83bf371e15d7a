"""The commands ``sppnet proposals``, ``proposals-import``, ``proposals-export`` and ``eval-proposals``.

None of them needs torch.
"""

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sppnet.cli.choices import PROPOSAL_ENGINES
from sppnet.cli.command import Without, command
from sppnet.cli.options import Cache, DataOptions, Jobs, SettingsOptions
from sppnet.common.errors import InputError
from sppnet.common.folders import CACHE, PROPOSALS, RUNS

if TYPE_CHECKING:
    from sppnet.data import Dataset
    from sppnet.proposals import ProposalCache, SelectiveSearch

_AllData = Annotated[DataOptions, Without("train_split", "test_split")]
_StoredData = Annotated[DataOptions, Without("train_split", "test_split", "limit", "skip_errors")]
_Settings = Annotated[SettingsOptions, Without("backbone", "weights")]


@command
def proposals(
    *,
    split: Annotated[
        list[str] | None,
        typer.Option(help="Split; repeatable; by default those of the main job.", show_default=False),
    ] = None,
    scheduler: Annotated[
        str, typer.Option(help="Address of a Dask scheduler, tcp://host:8786; empty: local processes.")
    ] = "",
    images_url: Annotated[
        str,
        typer.Option(
            help="Where workers read images: an fsspec URL that stands for the data set's folder (VOC_ROOT, "
            "COCO's images); empty: the same paths as here."
        ),
    ] = "",
    draw: Annotated[
        Path | None,
        typer.Option(
            help="Folder for a picture of each image: segments, regions at a few levels, and the proposals "
            "that cover its objects best. Mind --limit."
        ),
    ] = None,
    jobs: Jobs = -1,
    cache: Cache = CACHE,
    data: _AllData,
    settings: _Settings,
) -> None:
    """Fills the offline cache of proposals; stopped at any moment, it goes on from there."""
    from sppnet.cli.datasets import ChosenDataset
    from sppnet.cli.progress import ProgressReport
    from sppnet.cli.settings import open_cache, read_settings
    from sppnet.cli.terminal import console, say, say_written
    from sppnet.common.outputs import check_output_folder
    from sppnet.detection.runs.proposal_filling import fill_proposals
    from sppnet.proposals import SelectiveSearch

    resolved = read_settings(settings)
    engine = resolved.proposer
    if draw is not None and not isinstance(engine, SelectiveSearch):
        raise InputError("--draw shows regions of our own Selective Search: leave out 'engine' and 'boxes'")
    if draw is not None:
        check_output_folder(draw)
    chosen, stored = ChosenDataset(data), open_cache(cache, resolved)
    # All of them before the work on the first.
    splits = {name: chosen.open(name) for name in split or [chosen.train_split, chosen.test_split]}
    workers: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if scheduler:
        # It loads Dask, which no other work has to wait for.
        from sppnet.proposals.cluster import dask_cluster

        workers = dask_cluster(scheduler)
    with workers:
        for name, dataset in splits.items():
            source = chosen.image_source(name, images_url)
            with ProgressReport(console) as progress:
                dataset = fill_proposals(
                    dataset, engine, stored, jobs, data.skip_errors, progress, say, source
                )
            if draw is not None and isinstance(engine, SelectiveSearch):
                _draw_proposals(dataset, engine, stored, draw)
    say_written(*([draw] if draw else []), stored.path)


def _draw_proposals(
    dataset: "Dataset", engine: "SelectiveSearch", cache: "ProposalCache", folder: Path
) -> None:
    from sppnet.cli.progress import ProgressReport
    from sppnet.cli.terminal import console
    from sppnet.data.examples import inside
    from sppnet.detection.experiments.proposal_drawing import draw_proposals
    from sppnet.eval.output import write_png
    from sppnet.proposals import propose_example

    with ProgressReport(console) as progress:
        for done, example in enumerate(dataset, start=1):
            image = example.read()
            boxes = propose_example(example, engine, cache)
            grouped = next(iter(engine.hierarchies(image)))
            figure = draw_proposals(image, grouped, boxes, example, dataset.classes)
            write_png(inside(folder, f"{example.image_id}.png", example.path), figure)
            progress(f"drawing ({dataset.split})", done, len(dataset))


@command
def import_proposals(
    file: Annotated[Path, typer.Argument(help="The published .mat, or an .npz of proposals-export.")],
    *,
    name: Annotated[
        str, typer.Option(help="A name for the boxes: a run takes them with --set 'boxes=\"NAME\"'.")
    ],
    split: Annotated[str, typer.Option(help="Split whose images the boxes are of.")] = "test",
    cache: Cache = CACHE,
    data: _StoredData,
) -> None:
    """Puts boxes made elsewhere into the cache, under a name of their own."""
    from sppnet.cli.datasets import ChosenDataset
    from sppnet.cli.settings import open_cache, read_settings
    from sppnet.cli.terminal import say, say_written
    from sppnet.proposals import ImportedBoxes, exchange

    # An empty name would stand for our own Selective Search in the settings.
    ImportedBoxes(name)
    stored = open_cache(cache, read_settings(SettingsOptions(change=[f"boxes = {json.dumps(name)}"])))
    count = exchange.import_boxes(file, ChosenDataset(data).open(split), stored)
    say(f"{file}: boxes of {count} images imported as {name!r}")
    say_written(stored.path)


@command
def export_proposals(
    file: Annotated[Path, typer.Argument(help="An .mat in the published layout, or an .npz.")],
    *,
    split: Annotated[str, typer.Option(help="Split whose boxes to write.")] = "test",
    cache: Cache = CACHE,
    data: Annotated[DataOptions, Without("train_split", "test_split", "skip_errors")],
    settings: _Settings,
) -> None:
    """Writes the cached boxes of a split."""
    from sppnet.cli.datasets import ChosenDataset
    from sppnet.cli.settings import open_cache, read_settings
    from sppnet.cli.terminal import say, say_written
    from sppnet.proposals import exchange

    stored = open_cache(cache, read_settings(settings))
    count = exchange.export_boxes(file, ChosenDataset(data).open(split), stored)
    say(f"{file}: boxes of {count} images written")
    say_written(file)


@command
def evaluate_proposals(
    *,
    engine: Annotated[
        list[str] | None,
        typer.Option(help=f"One of {', '.join(PROPOSAL_ENGINES)}; repeatable; by default the first three."),
    ] = None,
    boxes: Annotated[
        list[Path] | None, typer.Option(help="Boxes made elsewhere, .mat or .npz; repeatable.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split whose objects are to be covered.")] = "test",
    difficult: Annotated[bool, typer.Option(help="Count objects that VOC calls difficult, too.")] = False,
    max_proposals: Annotated[
        int, typer.Option(min=0, help="Engines' proposals an image; 0: all. At 2000 the main job's are used.")
    ] = 0,
    min_side: Annotated[int, typer.Option(min=1, help="Engines drop boxes with a side below, pixels.")] = 20,
    output: Annotated[
        Path | None, typer.Option(help="Folder to write to; empty: runs/proposals-<dataset>-<split>.")
    ] = None,
    jobs: Jobs = -1,
    cache: Cache = CACHE,
    data: _AllData,
) -> None:
    """Evaluates proposals side by side: recall, average recall and MABO over the number of proposals."""
    from sppnet.cli.datasets import ChosenDataset, short_name
    from sppnet.cli.progress import ProgressReport
    from sppnet.cli.terminal import console, say, say_written
    from sppnet.common.outputs import check_output_folder
    from sppnet.detection.experiments.proposal_evaluation import (
        evaluate_engines,
        fill_engines,
        make_engine,
        read_file_boxes,
        write_evaluation,
    )
    from sppnet.eval import abo_table, proposal_table

    names = engine or ([] if boxes else ["single", "fast", "quality"])
    engines = {name: make_engine(name, max_proposals or None, min_side) for name in names}
    chosen = ChosenDataset(data)
    dataset = chosen.open(split)
    folder = output or RUNS / f"proposals-{short_name(chosen.name)}-{split}"
    check_output_folder(folder)
    if not data.skip_errors:
        # Before hours of proposals; with --skip-errors only those say which images are left out.
        for file in boxes or ():
            read_file_boxes(file, dataset)
    with ProgressReport(console) as progress:
        dataset = fill_engines(dataset, engines, cache / PROPOSALS, jobs, data.skip_errors, progress)
    say(f"evaluated: {len(dataset)} images")
    results = evaluate_engines(dataset, engines, boxes or (), cache / PROPOSALS, difficult)
    console.print(abo_table(results))
    console.print(proposal_table(results, f"{dataset.name} {split}, {len(dataset)} images"))
    about = {
        "dataset": dataset.name,
        "split": split,
        "difficult": difficult,
        "engines": {name: engine.parameters() for name, engine in engines.items()},
        "files": [str(file) for file in boxes or ()],
    }
    write_evaluation(folder, results, about)
    say_written(folder / "proposals.json", folder / "proposals.png")
