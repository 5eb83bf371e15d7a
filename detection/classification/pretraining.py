"""Trains a classifier, including its convolutions, on labelled images (SPP-net §2.3, §3.1)."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel

from sppnet.common.checkpoint import disk_errors_named
from sppnet.common.distributed import ALONE, Group
from sppnet.common.errors import InputError
from sppnet.common.progress import Progress
from sppnet.common.resumable import CHECKPOINT_SECONDS, ResumableLoop, Stateful
from sppnet.data.image_folder import ImageFolder
from sppnet.detection.backbones import weights_digest
from sppnet.detection.backbones.normalisation import IMAGENET
from sppnet.detection.backbones.weights import RANDOM
from sppnet.detection.classification.classifier import Classifier
from sppnet.detection.classification.epochs import Epoch, Pace, write_history
from sppnet.detection.classification.image_batches import (
    ImageBatch,
    Request,
    centre_requests,
    epoch_requests,
    epoch_side,
    epoch_steps,
    read_batches,
)
from sppnet.detection.classification.pretraining_settings import PretrainingSettings


def pretrain(
    train: ImageFolder,
    val: ImageFolder | None,
    settings: PretrainingSettings,
    folder: Path,
    progress: Progress,
    report: Callable[[Epoch], object] = lambda _: None,
    *,
    weights: Path | str | None = RANDOM,
    workers: int = 2,
    skip_errors: bool = False,
    group: Group = ALONE,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Classifier:
    """Trains a classifier and writes it to ``folder/classifier``, its epochs to ``folder/history.json``.

    The training can be stopped at any moment. Called again with the same arguments, it continues from its
    last checkpoint, with the same losses as an uninterrupted training (a stop during validation goes back to
    the training before it). Every random choice follows from the seed, the epoch and the image or the step.

    Several processes share each batch; the steps equal those of one process, except for rounding and dropout.

    Args:
        train: images to learn from.
        val: images to test on after each epoch, with the same classes; None: no validation.
        settings: the settings of the classifier and of its training.
        folder: the folder of the run, the same for all processes.
        progress: called with a stage's name, the steps done, and the steps in total.
        report: called after each epoch.
        weights: a file that the convolutions start from, ``random``, or None for the network's own weights
            (see `build_network`).
        workers: processes that read images, for each process that trains; 0: none. The result does not depend
            on it.
        skip_errors: leave out images that cannot be read, and count them.
        group: the processes of this training.
        checkpoint_seconds: time between two checkpoints.

    Raises:
        InputError: an image or the weights cannot be read (with ``skip_errors``: no image of a batch, or no
            validation image, can be read), a batch has fewer images than there are processes, a loss is not
            finite, or the disk is full.
    """
    work = folder / "training"
    with disk_errors_named(work), torch.random.fork_rng(devices=[]):
        training = _Pretraining(
            train, val, settings, folder, progress, report, weights, workers, skip_errors, group,
            checkpoint_seconds,
        )  # fmt: skip
        classifier = training.run()
        if group.rank == 0:
            classifier.save(folder / "classifier")
        group.wait()
    return classifier


class _Pretraining:
    def __init__(
        self,
        train: ImageFolder,
        val: ImageFolder | None,
        settings: PretrainingSettings,
        folder: Path,
        progress: Progress,
        report: Callable[[Epoch], object],
        weights: Path | str | None,
        workers: int,
        skip_errors: bool,
        group: Group,
        checkpoint_seconds: float,
    ) -> None:
        self.train, self.val, self.settings, self.folder = train, val, settings, folder
        self.progress, self.report, self.group = progress, report, group
        self.workers, self.skip_errors = workers, skip_errors
        self.batch = min(settings.batch, len(train))
        if self.batch < group.size:
            raise InputError(f"{train.folder}: a batch of {self.batch} images for {group.size} processes")
        self.net = Classifier(train.classes, settings.classifier, weights)
        self.trained: nn.Module = self.net
        self.optimiser = torch.optim.SGD(
            _parameter_groups(self.net, settings, weights == RANDOM), 1.0, settings.momentum
        )
        self.net.to(memory_format=torch.channels_last)
        self.average = AveragedModel(self.net, avg_fn=self._averaged) if settings.average else None
        self.epoch_steps = epoch_steps(settings, len(train))
        # Of the present epoch, over all processes: sum of losses, images trained on, images left out.
        self.sums = torch.zeros(3, dtype=torch.float64)
        self.pace = Pace()
        purpose = {
            "settings": asdict(settings), "train": train.digest(), "val": val.digest() if val else "",
            "start": weights_digest(self.net),
        }  # fmt: skip
        state: dict[str, Stateful] = {"net": self.net, "optimiser": self.optimiser, "sums": self.sums}
        if self.average is not None:
            state["average"] = self.average
        self.loop = ResumableLoop(
            folder / "training",
            purpose,
            state,
            Epoch,
            group=group,
            checkpoint_seconds=checkpoint_seconds,
        )

    def run(self) -> Classifier:
        if self.group.size > 1:
            self.trained = nn.parallel.DistributedDataParallel(self.net)
        self.pace.start()
        self.loop.run(
            self.pace.waited_for(self._read(self.train, self._requests())), self._learn,
            self.settings.total_epochs * self.epoch_steps,
            validate=self._end_epoch, validate_every=self.epoch_steps,
            stage="training", progress=self.progress,
        )  # fmt: skip
        return self._tested()

    def _requests(self) -> Iterator[list[Request]]:
        """Yields the requests of the batches from the present step on."""
        first, within = divmod(self.loop.step, self.epoch_steps)
        for epoch in range(first, self.settings.total_epochs):
            batches = epoch_requests(self.settings, len(self.train), epoch, self.group.rank, self.group.size)
            yield from batches[within:]
            within = 0

    def _read(self, images: ImageFolder, requests: Iterator[list[Request]]) -> Iterator[ImageBatch]:
        for batch in read_batches(images, requests, self.settings, self.workers):
            if batch.errors and not self.skip_errors:
                raise InputError(f"{batch.errors[0]} (or leave out such images: --skip-errors)")
            yield batch

    def _learn(self, batch: ImageBatch) -> None:
        settings, group, step = self.settings, self.group, self.loop.step
        if len(batch.labels) == 0:
            raise InputError(f"{batch.errors[0]}; no other image of its batch can be read either")
        self.loop.seed_torch(settings.seed)
        rate = settings.rate(step, self.epoch_steps)
        for parameters in self.optimiser.param_groups:
            parameters["lr"] = rate * parameters["factor"]
        self.trained.train()
        losses = cross_entropy(
            self.trained(batch.inputs(self.net.network.normalise)), batch.labels, reduction="sum",
            label_smoothing=settings.label_smoothing,
        )  # fmt: skip
        self.optimiser.zero_grad()
        # The gradients of the processes are averaged, but their shares of the batch may differ by an image.
        (losses * (group.size / self.batch)).backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        if self.average is not None:
            self.average.update_parameters(self.net)
        sums = torch.tensor([losses.item(), len(batch.labels), len(batch.errors)], dtype=torch.float64)
        group.add(sums)
        self.sums += sums
        if not sums.isfinite().all():
            raise InputError(
                f"step {step + 1}: the loss is not finite; give lower rates, or a longer warmup_steps"
            )
        self.pace.images += len(batch.labels)

    def _end_epoch(self) -> None:
        images_per_second, waiting = self.pace.figures()
        speed = torch.tensor(images_per_second)
        loss, images, skipped = self.sums.tolist()
        val_loss = top1 = top5 = None
        if self.val is not None:
            val_loss, top1, top5, left_out = self._validate(self.val)
            skipped += left_out
        self.group.add(speed)
        settings, step = self.settings, self.loop.step
        number = step // self.epoch_steps
        epoch = Epoch(
            number, epoch_side(settings, number - 1), settings.rate(step - 1, self.epoch_steps),
            loss / images, val_loss, top1, top5, int(skipped), float(speed), waiting,
        )  # fmt: skip
        self.loop.history.append(epoch)
        self.sums.zero_()
        self.report(epoch)
        if self.group.rank == 0:
            write_history(self.folder / "history.json", self.train, self.loop.history)
        self.pace.start()

    @torch.inference_mode()
    def _validate(self, images: ImageFolder) -> tuple[float, float, float, int]:
        """Computes loss, top-1 and top-5 accuracy on centre crops, and the number of unreadable images."""
        net = self._tested()
        sums = torch.zeros(5, dtype=torch.float64)
        requests = centre_requests(self.settings, len(images), self.group.rank, self.group.size)
        for done, batch in enumerate(self._read(images, iter(requests))):
            self.progress("testing", done, len(requests))
            sums[4] += len(batch.errors)
            if len(batch.labels) == 0:  # The last batch may be a single unreadable image.
                continue
            logits = net(batch.inputs(net.network.normalise))
            best = logits.topk(min(5, logits.shape[1])).indices == batch.labels[:, None]
            loss = cross_entropy(logits, batch.labels, reduction="sum")
            sums[:4] += torch.tensor([float(loss), int(best[:, 0].sum()), int(best.sum()), len(logits)])
        self.group.add(sums)
        if sums[3] == 0:
            raise InputError(f"{images.folder}: none of its images can be read; fetch them again")
        loss, top1, top5 = (sums[:3] / sums[3]).tolist()
        return loss, top1, top5, int(sums[4])

    def _tested(self) -> Classifier:
        """Returns the classifier that is tested and saved, in evaluation mode."""
        net = self.net if self.average is None else self.average.module
        assert isinstance(net, Classifier)
        return net.eval()

    def _averaged(self, average: Tensor, present: Tensor, count: Tensor | int) -> Tensor:
        """Updates the moving average, faster in the first steps, to forget the random start soon."""
        kept = min(self.settings.average, (1 + int(count)) / (10 + int(count)))
        return torch.lerp(present, average, kept)


def _parameter_groups(net: Classifier, settings: PretrainingSettings, random: bool) -> list[dict[str, Any]]:
    """Returns parameter groups: weights, which decay; biases, which do not; the first layer's weights.

    Initialisation and learning rates assume pixels with a standard deviation of about 1. If pixels are
    ``spread`` times as wide (zf5), the first layer's weights and the effect of their gradients are divided by
    ``spread``, so that it is trained as with such pixels.
    """
    first = next(layer.weight for layer in net.network.layers.modules() if isinstance(layer, nn.Conv2d))
    spread = sum(IMAGENET.std) / sum(net.network.normalise.std)
    if random:
        with torch.no_grad():
            first /= spread
    weights = [parameter for parameter in net.parameters() if parameter.ndim > 1 and parameter is not first]
    biases = [parameter for parameter in net.parameters() if parameter.ndim == 1]
    decay = settings.weight_decay
    return [
        {"params": weights, "weight_decay": decay, "factor": 1.0},
        {"params": biases, "weight_decay": 0.0, "factor": 1.0},
        {"params": [first], "weight_decay": decay * spread**2, "factor": 1 / spread**2},
    ]
