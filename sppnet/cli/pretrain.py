"""The command ``sppnet pretrain``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sppnet.cli.choices import CLASSIFIER_NETWORKS, PRETRAINING_PRESETS
from sppnet.cli.command import command
from sppnet.cli.options import Changes, Config, SkipErrors
from sppnet.common.errors import InputError
from sppnet.common.folders import RUNS

if TYPE_CHECKING:
    from sppnet.detection.classification.epochs import Epoch

_MOST_WORKERS = 4


@command
def pretrain(
    *,
    data: Annotated[
        Path, typer.Option(help="Images as <class>/<image>, or a folder with such a train/ and perhaps val/.")
    ],
    run: Annotated[
        str, typer.Option(help="Folder below runs/; empty: named after data, network and preset.")
    ] = "",
    val: Annotated[
        Path | None, typer.Option(help="Images to test on after each epoch, as <class>/<image>.")
    ] = None,
    hold_out: Annotated[
        float, typer.Option(min=0, max=0.9, help="Part of each class to test on, if there is no val.")
    ] = 0.0,
    network: Annotated[str, typer.Option(help=f"One of {', '.join(CLASSIFIER_NETWORKS)}.")] = "zf5",
    preset: Annotated[str, typer.Option(help=f"One of {', '.join(PRETRAINING_PRESETS)}.")] = "paper",
    config: Config = None,
    change: Changes = None,
    weights: Annotated[
        str,
        typer.Option(
            help="File that the convolutions start from; own: the network's weights; empty: random."
        ),
    ] = "",
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Processes that read images; 0: the training process reads them; by default one a core, "
            "four at most.",
        ),
    ] = None,
    skip_errors: SkipErrors = False,
) -> None:
    """Trains a classifier on a folder of images; stopped at any moment, it goes on from there."""
    from sppnet.cli.progress import ProgressReport
    from sppnet.cli.terminal import console, say, say_written
    from sppnet.common.cores import allowed_cores
    from sppnet.common.distributed import join_group
    from sppnet.common.settings import changed
    from sppnet.data.image_splits import open_train_and_val, shared_images
    from sppnet.detection.classification.pretraining_run import PretrainingRun
    from sppnet.detection.classification.pretraining_settings import pretraining_preset

    with join_group() as group:
        console.quiet = group.rank > 0
        settings = changed(pretraining_preset(preset, network), config, change or ())
        if settings.classifier.network != network:
            raise InputError(
                f"give the network as --network {settings.classifier.network}: the recipe depends on it"
            )
        train, tested = open_train_and_val(data, val, hold_out)
        if tested is not None and (shared := shared_images(train, tested)):
            say(f"warning: {shared} of the {len(tested)} images of {tested.folder} are training images, too")
        name = run or f"{data.resolve().name}-{network}-{preset}"
        training = PretrainingRun(RUNS / name, train, tested, settings, weights)
        training.claim()
        say(f"train: {len(train)} images of {len(train.classes)} classes in {train.folder}")
        if tested is not None:
            say(f"val: {len(tested)} images in {tested.folder}")
        if training.trained:
            say(f"classifier: {training.classifier} (trained before)")
        with ProgressReport(console) as progress:
            training.run(
                progress,
                lambda epoch: _print_epoch(epoch, settings.total_epochs),
                min(_MOST_WORKERS, allowed_cores()) if workers is None else workers,
                skip_errors,
                group,
            )
    say_written(training.classifier, training.history)


def _print_epoch(epoch: "Epoch", epochs: int) -> None:
    from sppnet.cli.terminal import say
    from sppnet.common.text import percent

    figures = [
        f"epoch {epoch.number} of {epochs}: size {epoch.size}, rate {epoch.rate:.2g}, loss {epoch.loss:.3f}"
    ]
    if epoch.val_loss is not None and epoch.top1 is not None and epoch.top5 is not None:
        figures.append(
            f"val loss {epoch.val_loss:.3f}, top-1 {percent(epoch.top1)} %, top-5 {percent(epoch.top5)} %"
        )
    figures.append(f"{epoch.images_per_second:.1f} images/s, {100 * epoch.waiting:.0f} % waiting for images")
    if epoch.skipped:
        figures.append(f"{epoch.skipped} images left out")
    say("; ".join(figures))
