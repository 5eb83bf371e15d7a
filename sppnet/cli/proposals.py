"""The commands ``sppnet proposals…`` and ``eval-proposals``."""

import contextlib
import json
from pathlib import Path
from typing import Annotated

import typer

from sppnet.cli.job import Job, file_name
from sppnet.cli.options import (
    VOC_ROOT,
    Change,
    Config,
    DatasetName,
    Jobs,
    Limit,
    Preset,
    SkipErrors,
    VocRoot,
    console,
    reported,
)
from sppnet.cli.progress import ProgressReport
from sppnet.common.errors import InputError
from sppnet.data import Dataset, read_image
from sppnet.detection.experiments.proposal_drawing import draw_proposals
from sppnet.detection.experiments.proposal_evaluation import (
    ENGINES,
    evaluate_engines,
    fill_engines,
    make_engine,
    write_evaluation,
)
from sppnet.eval import abo_table, proposal_table
from sppnet.proposals import ImportedBoxes, ProposalCache, SelectiveSearch, exchange, propose_example


@reported
def proposals(
    dataset: DatasetName = "",
    voc_root: VocRoot = VOC_ROOT,
    split: Annotated[list[str] | None, typer.Option(help="Splits; those of the main job by default.")] = None,
    preset: Preset = "default",
    config: Config = None,
    change: Change = None,
    jobs: Jobs = -1,
    limit: Limit = 0,
    skip_errors: SkipErrors = False,
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
            help="Folder for a picture of each image: segments, regions at a few levels, and the windows "
            "that cover its objects best. Mind --limit."
        ),
    ] = None,
) -> None:
    """Fills the offline cache of proposals; stopped at any moment, it goes on from there."""
    job = Job(
        dataset, voc_root, preset=preset, config=config, changes=change, limit=limit, skip_errors=skip_errors
    )
    engine = job.settings.proposer
    if draw is not None and not isinstance(engine, SelectiveSearch):
        raise InputError("--draw shows regions of our own Selective Search: leave out 'engine' and 'boxes'")
    where: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if scheduler:
        # It loads Dask, which no other work has to wait for.
        from sppnet.proposals.cluster import dask_cluster

        where = dask_cluster(scheduler)
    with where:
        for name in split or [job.train_split, "test"]:
            dataset_split = job.fill(job.open(name), jobs, job.image_source(name, images_url))
            if draw is not None and isinstance(engine, SelectiveSearch):
                _draw_proposals(dataset_split, engine, job.cache, draw)


def _draw_proposals(dataset: Dataset, engine: SelectiveSearch, cache: ProposalCache, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with ProgressReport(console) as progress:
        for done, example in enumerate(dataset, start=1):
            image = read_image(example.path)
            boxes = propose_example(example, engine, cache)
            grouped = next(iter(engine.hierarchies(image)))
            path = folder / f"{example.image_id.replace('/', '_')}.png"
            draw_proposals(image, grouped, boxes, example, dataset.classes).savefig(path, dpi=100)
            progress(f"drawing ({dataset.split})", done, len(dataset))
    console.print(f"pictures: {folder}", highlight=False)


@reported
def proposals_import(
    file: Annotated[Path, typer.Argument(help="The published .mat, or an .npz of proposals-export.")],
    name: Annotated[
        str, typer.Option(help="What to call them: a run takes them with --set 'boxes=\"NAME\"'.")
    ],
    dataset: DatasetName = "",
    voc_root: VocRoot = VOC_ROOT,
    split: Annotated[str, typer.Option(help="Split whose images the boxes are of.")] = "test",
) -> None:
    """Puts boxes made elsewhere into the cache, under a name of their own."""
    # An empty name would stand for our own Selective Search in the settings.
    ImportedBoxes(name)
    job = Job(dataset, voc_root, split, changes=[f"boxes = {json.dumps(name)}"])
    count = exchange.import_boxes(file, job.open(split), job.cache)
    console.print(f"{file}: boxes of {count} images imported as {name!r}", highlight=False)


@reported
def proposals_export(
    file: Annotated[Path, typer.Argument(help="An .mat in the published layout, or an .npz.")],
    dataset: DatasetName = "",
    voc_root: VocRoot = VOC_ROOT,
    split: Annotated[str, typer.Option(help="Split whose boxes to write.")] = "test",
    preset: Preset = "default",
    config: Config = None,
    change: Change = None,
    limit: Limit = 0,
) -> None:
    """Writes the cached boxes of a split."""
    job = Job(dataset, voc_root, split, preset=preset, config=config, changes=change, limit=limit)
    count = exchange.export_boxes(file, job.open(split), job.cache)
    console.print(f"{file}: boxes of {count} images written", highlight=False)


@reported
def evaluate_proposals(
    engine: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(ENGINES)}; repeatable.")
    ] = None,
    boxes: Annotated[
        list[Path] | None, typer.Option(help="Boxes made elsewhere, .mat or .npz; repeatable.")
    ] = None,
    dataset: DatasetName = "",
    voc_root: VocRoot = VOC_ROOT,
    split: Annotated[str, typer.Option(help="Split whose objects are to be covered.")] = "test",
    difficult: Annotated[bool, typer.Option(help="Count objects that VOC calls difficult, too.")] = False,
    max_proposals: Annotated[
        int, typer.Option(min=0, help="Engines' windows an image; 0: all. With 2000 the main job's serve.")
    ] = 0,
    min_side: Annotated[int, typer.Option(min=1, help="Engines drop boxes with a side below, pixels.")] = 20,
    output: Annotated[
        Path | None, typer.Option(help="Folder to write to; empty: runs/proposals-<dataset>-<split>.")
    ] = None,
    jobs: Jobs = -1,
    limit: Limit = 0,
    skip_errors: SkipErrors = False,
) -> None:
    """Evaluates proposals side by side: recall, average recall and MABO over the number of windows."""
    names = engine or ([] if boxes else ["single", "fast", "quality"])
    engines = {name: make_engine(name, max_proposals or None, min_side) for name in names}
    job = Job(dataset, voc_root, split, limit=limit, skip_errors=skip_errors)
    examples = job.open(split)
    with ProgressReport(console) as progress:
        examples = fill_engines(examples, engines, job.cache.path, jobs, skip_errors, progress)
    console.print(f"evaluated: {len(examples)} images", highlight=False)
    results = evaluate_engines(examples, engines, boxes or (), job.cache.path, difficult)
    console.print(abo_table(results))
    title = f"{examples.name} {split}, {len(examples)} images"
    console.print(proposal_table(results, title))
    folder = output or job.run.folder.parent / f"proposals-{file_name(job.name)}-{split}"
    about = {
        "dataset": examples.name,
        "split": split,
        "difficult": difficult,
        "engines": {name: one.parameters() for name, one in engines.items()},
        "files": [str(file) for file in boxes or ()],
    }
    write_evaluation(folder, results, about)
    console.print(f"written: {folder}/proposals.json and proposals.png", highlight=False)
