"""The command ``sppnet distill``."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tomli_w
import typer
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor

from sppnet.cli.options import (
    SAMPLE,
    VOC_ROOT,
    Change,
    Config,
    DatasetName,
    Limit,
    MapGb,
    TrainSplit,
    VocRoot,
    choose_dataset,
    console,
    reported,
)
from sppnet.cli.progress import ProgressReport
from sppnet.common.claim import claim
from sppnet.common.files import atomic_path, file_digest
from sppnet.common.settings import changed
from sppnet.data import default_train_split, open_dataset
from sppnet.detection.distillation.distill import Distilling, learned_digest, sources_digests
from sppnet.detection.distillation.settings import DistillSettings


@reported
def distill_command(
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            help="'efficientnet_lite0 576 400 288': name[=weights] or model folder, and its short side for "
            "each of 'scales'; 'labels': the annotated boxes."
        ),
    ] = None,
    run: Annotated[str, typer.Option(help="Folder below runs/ for weights and figures.")] = "distilled",
    dataset: DatasetName = "",
    voc_root: VocRoot = VOC_ROOT,
    train_split: TrainSplit = "",
    config: Config = None,
    change: Change = None,
    limit: Limit = 0,
    map_gb: MapGb = 20,
) -> None:
    """Trains zf5's convolutions to reproduce the maps of stronger networks, from images alone."""
    settings = changed(DistillSettings(), config, change or ())
    if teacher:
        settings = changed(settings, None, [f"teachers = {json.dumps(teacher)}"])
    name, root = choose_dataset(dataset, voc_root)
    split = train_split or default_train_split(name, root)
    examples = open_dataset(name, split, root, SAMPLE).head(limit or None)
    console.print(f"{split}: {len(examples)} images", highlight=False)
    folder = Path("runs") / run
    result, history = folder / f"{settings.network}.safetensors", folder / "history.json"
    work = folder / "training"

    def keep(step: int, weights: dict[str, Tensor]) -> None:
        _write(folder / "snapshots" / f"{step:06d}.safetensors", weights)

    start = Path(settings.start)
    digests = {
        "images_digest": learned_digest(examples, settings),
        "teachers_digests": sources_digests(settings),
        "start_digest": file_digest(start) if start.is_file() else "",
    }
    about = tomli_w.dumps(digests | asdict(settings))
    if history.exists():
        claim(folder / "settings.toml", about)
        # What a kill between writing and cleaning up left.
        shutil.rmtree(work, ignore_errors=True)
        console.print(f"weights: {result} (trained before)", highlight=False)
        return
    with ProgressReport(console) as progress:
        job = Distilling(examples, settings, Path("cache/maps"), int(map_gb * 1e9), work, progress, keep)
        # Once it is known that there are such teachers: what cannot be trained takes no run's name.
        claim(folder / "settings.toml", about)
        network, points = job.run()
    _write(result, dict(network.layers.state_dict()))
    with atomic_path(history) as path:
        path.write_text(json.dumps([asdict(point) for point in points], indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(work, ignore_errors=True)
    table = Table(
        "step", "minutes", *settings.teachers, title="variance of held-out maps explained, %, by tap"
    )
    for point in points:
        explained = (
            " ".join(f"{100 * one:.1f}" for one in feature_levels) for feature_levels in point.explained
        )
        table.add_row(str(point.step), f"{point.seconds / 60:.1f}", *explained)
    console.print(table)
    console.print(f"weights: {result}", highlight=False)


def _write(file: Path, weights: dict[str, Tensor]) -> None:
    """Weights as float16, which halves the file; what they are rounded by is far below their noise."""
    with atomic_path(file) as path:
        save_file({name: one.half().contiguous() for name, one in weights.items()}, path)
