"""The commands ``sppnet pretrain`` and ``sppnet data crops``."""

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import tomli_w
import typer

from sppnet.cli.job import check_classes, warn_of_shared_images
from sppnet.cli.options import (
    SAMPLE,
    VOC_ROOT,
    Change,
    Config,
    DatasetName,
    Limit,
    SkipErrors,
    TestSplit,
    TrainSplit,
    VocRoot,
    choose_dataset,
    console,
    reported,
)
from sppnet.cli.progress import ProgressReport
from sppnet.common.claim import claim
from sppnet.common.distributed import join_group
from sppnet.common.errors import InputError
from sppnet.common.settings import changed
from sppnet.data import default_train_split, open_dataset
from sppnet.data.image_folder import ImageFolder, open_classes, open_image_folder, split_folders
from sppnet.data.object_crops import write_object_crops
from sppnet.detection.backbones import build_network, weights_digest
from sppnet.detection.backbones.build import CHAINS, RANDOM, starting_weights
from sppnet.detection.classification.image_batches import epoch_steps
from sppnet.detection.classification.pretraining import Epoch, pretrain
from sppnet.detection.classification.pretraining_settings import PRETRAINING_PRESETS, pretraining_preset


@reported
def pretrain_command(
    data: Annotated[
        Path, typer.Option(help="Images as <class>/<image>, or a folder with such a train/, and maybe val/.")
    ],
    run: Annotated[
        str, typer.Option(help="Folder below runs/; empty: named by data, network and preset.")
    ] = "",
    val: Annotated[
        Path | None, typer.Option(help="Images to test on after each epoch, as <class>/<image>.")
    ] = None,
    hold_out: Annotated[
        float, typer.Option(min=0, max=0.9, help="Part of each class to test on, where there is no val.")
    ] = 0,
    network: Annotated[str, typer.Option(help=f"One of {', '.join(CHAINS)}.")] = "zf5",
    preset: Annotated[str, typer.Option(help=f"One of {', '.join(PRETRAINING_PRESETS)}.")] = "paper",
    config: Config = None,
    change: Change = None,
    weights: Annotated[
        str,
        typer.Option(help="File that the convolutions start from, or own: the network's; empty: random."),
    ] = "",
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that read images; 0: the one that trains reads them.")
    ] = min(4, os.cpu_count() or 1),
    skip_errors: SkipErrors = False,
) -> None:
    """Trains a classifier on a folder of images; stopped at any moment, it goes on from there."""
    with join_group() as group:
        console.quiet = group.rank > 0
        settings = changed(pretraining_preset(preset, network), config, change or ())
        train, tested = _open(data, val, hold_out)
        start = starting_weights(weights)
        classifier = settings.classifier
        if classifier.network != network:
            raise InputError(f"give the network as --network {classifier.network}: its recipe goes by that")
        steps = settings.total_epochs * epoch_steps(settings, len(train))
        if settings.warmup_steps >= steps:
            raise InputError(
                f"warmup_steps {settings.warmup_steps}: of {len(train)} images there are only {steps} steps; "
                "give fewer, a smaller batch, or more epochs"
            )
        folder = Path("runs") / (run or f"{data.resolve().name}-{classifier.network}-{preset}")
        about = {
            "train": f"{len(train)} images of {len(train.classes)} classes",
            "train_digest": train.digest(),
            "val_digest": tested.digest() if tested else "",
            # Read before the run is claimed: with a wrong name, none is.
            "weights": "" if start == RANDOM else weights_digest(build_network(classifier.network, start)),
        }
        claim(folder / "settings.toml", tomli_w.dumps(about | asdict(settings)))
        console.print(f"train: {about['train']} in {train.folder}", highlight=False)
        if tested is not None:
            console.print(f"val: {len(tested)} images in {tested.folder}", highlight=False)
        result = folder / "classifier"
        remark = " (trained before)"
        if not (result / "classifier.json").exists():
            with ProgressReport(console) as progress:
                pretrain(
                    train, tested, settings, folder, progress,
                    lambda epoch: _print(epoch, settings.total_epochs),
                    weights=start, workers=workers, skip_errors=skip_errors, group=group,
                )  # fmt: skip
            remark = f", the epochs in {folder}/history.json"
        # Of a classifier trained before: what a kill between writing and cleaning up left.
        if group.rank == 0:
            shutil.rmtree(folder / "training", ignore_errors=True)
    console.print(f"classifier: {result}{remark}", highlight=False)


def _open(data: Path, val: Path | None, hold_out: float) -> tuple[ImageFolder, ImageFolder | None]:
    """The images to learn from and to test on; ``data`` itself, or its ``train`` and ``val``."""
    splits = split_folders(data)
    train = open_classes(splits[0] if splits else data)
    if val is None and splits:
        val = splits[1]
    if not hold_out:
        if val is None:
            return train, None
        tested = open_image_folder(val, train.classes)
        both = {path.resolve() for path in train.paths} & {path.resolve() for path in tested.paths}
        if both:
            console.print(
                f"warning: {len(both)} of the {len(tested)} images of {val} are among those trained on",
                highlight=False, markup=False, soft_wrap=True,
            )  # fmt: skip
        return train, tested
    if val is not None:
        raise InputError(f"there are images to test on, {val}; leave --hold-out away")
    return _held_out(train, hold_out)


def _held_out(train: ImageFolder, part: float) -> tuple[ImageFolder, ImageFolder]:
    """All but a part of each class, one image at least; and that part."""
    counts = np.bincount(train.labels)
    if counts.min() < 2:
        alone = train.classes[counts.argmin()]
        raise InputError(
            f"{train.folder}: --hold-out {part:g} of each class does not go: {alone} has one image"
        )
    order = np.random.default_rng(0).permutation(len(train))
    order = order[np.argsort(train.labels[order], kind="stable")]
    labels = train.labels[order]
    # Within each class, in that order: the first of them are tested on.
    rank = np.arange(len(order)) - np.searchsorted(labels, labels)
    tested = rank < np.clip(np.rint(part * counts), 1, counts - 1)[labels]
    return train.only(np.sort(order[~tested])), train.only(np.sort(order[tested]))


def _print(epoch: Epoch, epochs: int) -> None:
    words = [
        f"epoch {epoch.number} of {epochs}: size {epoch.size}, rate {epoch.rate:.2g}, loss {epoch.loss:.3f}"
    ]
    if epoch.val_loss is not None and epoch.top1 is not None and epoch.top5 is not None:
        words.append(
            f"val loss {epoch.val_loss:.3f}, top-1 {100 * epoch.top1:.1f} %, top-5 {100 * epoch.top5:.1f} %"
        )
    words.append(f"{epoch.images_per_second:.1f} images/s, {100 * epoch.waiting:.0f} % waiting for images")
    if epoch.skipped:
        words.append(f"{epoch.skipped} images left out")
    console.print("; ".join(words), highlight=False)


@reported
def crops_command(
    folder: Annotated[Path, typer.Argument(help="Where to; must not exist yet.")],
    dataset: DatasetName = "",
    voc_root: VocRoot = VOC_ROOT,
    train_split: TrainSplit = "",
    test_split: TestSplit = "test",
    limit: Limit = 0,
) -> None:
    """Writes the objects of a detection data set as images by class, in train/ and val/ of a folder."""
    name, root = choose_dataset(dataset, voc_root)
    names = {"train": train_split or default_train_split(name, root, test_split), "val": test_split}
    if names["train"] == names["val"]:
        raise InputError(f"split {test_split}: to train and to test on; give two")
    splits = {
        place: open_dataset(name, split, root, SAMPLE).head(limit or None) for place, split in names.items()
    }
    check_classes(splits["val"], splits["train"])
    warn_of_shared_images(splits["val"], splits["train"])
    with ProgressReport(console) as progress:
        counts = write_object_crops(splits, folder, progress)
    for place, count in counts.items():
        console.print(f"{folder / place}: {count} objects", highlight=False)
