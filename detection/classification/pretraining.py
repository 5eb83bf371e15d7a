"""Training a classifier, convolutions and all, on labelled images (SPP-net §2.3, §3.1)."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel

from sppnet.common.checkpoint import Checkpoint, disk_errors_named, load_optimiser, optimiser_tensors, part
from sppnet.common.distributed import ALONE, Group
from sppnet.common.errors import InputError
from sppnet.common.files import atomic_path
from sppnet.data.image_folder import ImageFolder
from sppnet.detection.backbones import weights_digest
from sppnet.detection.backbones.base import IMAGENET
from sppnet.detection.backbones.build import RANDOM
from sppnet.detection.classification.classifier import Classifier
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

_CHECKPOINT_SECONDS = 240.0

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Epoch:
    """What an epoch was like.

    Attributes:
        number: from 1.
        size: side of its images, pixels.
        rate: learning rate of its last step.
        loss: mean over its images, while training.
        val_loss, top1, top5: of the validation images' centre crops, the accuracies in 0 to 1; None without
            such images. Of at most 5 classes, ``top5`` is 1.
        skipped: images that could not be read, of those for training and for validation.
        images_per_second: while training, of all processes.
        waiting: part of that time in which the first process had no batch to work on.
    """

    number: int
    size: int
    rate: float
    loss: float
    val_loss: float | None
    top1: float | None
    top5: float | None
    skipped: int
    images_per_second: float
    waiting: float


def pretrain(
    train: ImageFolder,
    val: ImageFolder | None,
    settings: PretrainingSettings,
    folder: Path,
    progress: Progress,
    report: Callable[[Epoch], None] = lambda _: None,
    *,
    weights: Path | str | None = RANDOM,
    workers: int = 2,
    skip_errors: bool = False,
    group: Group = ALONE,
) -> Classifier:
    """Trains a classifier and writes it to ``folder/classifier``, its epochs to ``folder/history.json``.

    It can be stopped at any moment: run again with the same arguments, it goes on from a checkpoint that is
    at most four minutes old (of before the test images, while it goes through these), with the same losses
    as without the break. Every random choice follows from the seed, the epoch and the image or the step, so
    that the position is all there is to keep of them.

    Several processes share each batch; the steps are those of one process, but for rounding and dropout.

    Args:
        train: images to learn from.
        val: images to test on after each epoch, with the same classes; None for none.
        settings: of the classifier and its training.
        folder: of the run; the same for all processes.
        progress: called with a stage's name, steps done, steps in all.
        report: called after each epoch.
        weights: a file that the convolutions start from, ``random``, or None for the network's own (see
            `build_network`).
        workers: processes that read images, for each process that trains; 0: none. No result depends on it.
        skip_errors: leave out images that cannot be read, and count them.
        group: the processes of this training.

    Raises:
        InputError: an image or the weights cannot be read (with ``skip_errors``: no image of a batch, or none
            to test on), a batch of fewer images than processes, a loss that is not finite, a full disk.
    """
    work = folder / "training"
    with disk_errors_named(work), torch.random.fork_rng(devices=[]):
        training = _Pretraining(train, val, settings, work, progress, weights, workers, skip_errors, group)
        classifier = training.run(folder, report)
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
        work: Path,
        progress: Progress,
        weights: Path | str | None,
        workers: int,
        skip_errors: bool,
        group: Group,
    ) -> None:
        self.train, self.val, self.settings, self.progress = train, val, settings, progress
        self.workers, self.skip_errors, self.group, self.work = workers, skip_errors, group, work
        self.batch = min(settings.batch, len(train))
        if self.batch < group.size:
            raise InputError(f"{train.folder}: a batch of {self.batch} images for {group.size} processes")
        self.net = Classifier(train.classes, settings.classifier, weights)
        self.optimiser = torch.optim.SGD(
            _parameter_groups(self.net, settings, weights == RANDOM), 1.0, settings.momentum
        )
        self.net.to(memory_format=torch.channels_last)
        self.average = AveragedModel(self.net, avg_fn=self._averaged) if settings.average else None
        self.checkpoint = Checkpoint(
            work,
            {
                "settings": asdict(settings), "train": train.digest(), "val": val.digest() if val else "",
                "start": weights_digest(self.net),
            },
        )  # fmt: skip
        self.steps = epoch_steps(settings, len(train))
        self.step = 0
        # Of the present epoch, in all processes: the losses, the images that they are of, those left out.
        self.sums = torch.zeros(3, dtype=torch.float64)
        self.history: list[Epoch] = []
        self._restore()

    def run(self, folder: Path, report: Callable[[Epoch], None]) -> Classifier:
        total = self.settings.total_epochs * self.steps
        trained: nn.Module = self.net
        if self.group.size > 1:
            trained = nn.parallel.DistributedDataParallel(self.net)
        batches = self._read(self.train, self._requests())
        saved = begun = time.monotonic()
        seen, waited = 0, 0.0
        while self.step < total:
            asked = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - asked
            self._learn(trained, batch)
            seen += len(batch.labels)
            self.step += 1
            if self.step % self.steps == 0:
                seconds = time.monotonic() - begun
                epoch = self._end_epoch(seen / seconds, waited / seconds)
                report(epoch)
                self._write_history(folder / "history.json")
                begun, seen, waited = time.monotonic(), 0, 0.0
            self.progress("training", self.step, total)
            if self.group.rank == 0 and time.monotonic() - saved > _CHECKPOINT_SECONDS:
                self.checkpoint.save(self._state())
                saved = time.monotonic()
        return self._tested()

    def _requests(self) -> Iterator[list[Request]]:
        """The batches from the present step on."""
        first, within = divmod(self.step, self.steps)
        for epoch in range(first, self.settings.total_epochs):
            batches = epoch_requests(self.settings, len(self.train), epoch, self.group.rank, self.group.size)
            yield from batches[within:]
            within = 0

    def _read(self, images: ImageFolder, requests: Iterator[list[Request]]) -> Iterator[ImageBatch]:
        for batch in read_batches(images, requests, self.settings, self.workers):
            if batch.errors and not self.skip_errors:
                raise InputError(f"{batch.errors[0]} (or leave out such images: --skip-errors)")
            yield batch

    def _learn(self, trained: nn.Module, batch: ImageBatch) -> None:
        settings, group = self.settings, self.group
        if len(batch.labels) == 0:
            raise InputError(f"{batch.errors[0]}; nor can any other image of its batch be read")
        torch.manual_seed(_seed(settings.seed, self.step, group.rank))
        rate = settings.rate(self.step, self.steps)
        for parameters in self.optimiser.param_groups:
            parameters["lr"] = rate * parameters["factor"]
        trained.train()
        losses = cross_entropy(
            trained(batch.inputs(self.net.network.normalise)), batch.labels, reduction="sum",
            label_smoothing=settings.label_smoothing,
        )  # fmt: skip
        self.optimiser.zero_grad()
        # The processes' gradients are averaged, but their parts of the batch may differ by an image.
        (losses * (group.size / self.batch)).backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        if self.average is not None:
            self.average.update_parameters(self.net)
        sums = torch.tensor([losses.item(), len(batch.labels), len(batch.errors)], dtype=torch.float64)
        group.add(sums)
        self.sums += sums
        if not sums.isfinite().all():
            raise InputError(
                f"step {self.step + 1}: the loss is not finite; give lower rates, or a longer warmup_steps"
            )

    def _end_epoch(self, images_per_second: float, waiting: float) -> Epoch:
        settings = self.settings
        loss, images, skipped = self.sums.tolist()
        val_loss = top1 = top5 = None
        if self.val is not None:
            val_loss, top1, top5, left_out = self._validate(self.val)
            skipped += left_out
        speed = torch.tensor(images_per_second)
        self.group.add(speed)
        number = self.step // self.steps
        epoch = Epoch(
            number, epoch_side(settings, number - 1), settings.rate(self.step - 1, self.steps),
            loss / images, val_loss, top1, top5, int(skipped), float(speed), waiting,
        )  # fmt: skip
        self.history.append(epoch)
        self.sums.zero_()
        return epoch

    @torch.inference_mode()
    def _validate(self, images: ImageFolder) -> tuple[float, float, float, int]:
        """Loss, top-1 and top-5 accuracy on centre crops, and how many images could not be read."""
        net = self._tested()
        sums = torch.zeros(5, dtype=torch.float64)
        requests = centre_requests(self.settings, len(images), self.group.rank, self.group.size)
        for done, batch in enumerate(self._read(images, iter(requests))):
            self.progress("testing", done, len(requests))
            sums[4] += len(batch.errors)
            if len(batch.labels) == 0:  # a last batch can be a single image
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
        """What is to be tested and saved, in evaluation mode."""
        net = self.net if self.average is None else self.average.module
        assert isinstance(net, Classifier)
        return net.eval()

    def _averaged(self, average: Tensor, present: Tensor, count: Tensor | int) -> Tensor:
        """The moving average; its first steps count for less, or the random start would long remain in it."""
        kept = min(self.settings.average, (1 + int(count)) / (10 + int(count)))
        return torch.lerp(present, average, kept)

    def _write_history(self, file: Path) -> None:
        if self.group.rank > 0:
            return
        about = {
            "images": len(self.train), "classes": list(self.train.classes),
            "epochs": [asdict(one) for one in self.history],
        }  # fmt: skip
        with atomic_path(file) as path:
            path.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    def _state(self) -> dict[str, NDArray[Any]]:
        tensors = {f"net.{name}": one for name, one in self.net.state_dict().items()}
        tensors |= {f"optimiser.{name}": one for name, one in optimiser_tensors(self.optimiser).items()}
        if self.average is not None:
            tensors |= {f"average.{name}": one for name, one in self.average.state_dict().items()}
        position = {
            "step": self.step, "sums": self.sums.tolist(),
            "history": [asdict(one) for one in self.history],
        }  # fmt: skip
        text = np.frombuffer(json.dumps(position).encode(), np.uint8)
        return {name: one.numpy() for name, one in tensors.items()} | {"position": text}

    def _restore(self) -> None:
        """Goes on from the checkpoint, if there is one."""
        state = self.checkpoint.load()
        position = {} if state is None else json.loads(state.pop("position").tobytes())
        # Before the first process writes a new one, all must have read the same.
        if not self.group.agree(position.get("step", 0)):
            raise InputError(
                f"{self.work}: the processes see different checkpoints there; they must share it"
            )
        if state is None:
            return
        tensors = {name: torch.from_numpy(np.array(one)) for name, one in state.items()}
        self.net.load_state_dict(part(tensors, "net."))
        load_optimiser(self.optimiser, part(tensors, "optimiser."))
        if self.average is not None:
            self.average.load_state_dict(part(tensors, "average."))
        self.step = position["step"]
        self.history = [Epoch(**one) for one in position["history"]]
        self.sums += torch.tensor(position["sums"], dtype=torch.float64)


def _parameter_groups(net: Classifier, settings: PretrainingSettings, random: bool) -> list[dict[str, Any]]:
    """Weights, which decay, biases, which do not, and the first layer's weights.

    Those are trained as if pixels came with a standard deviation of about 1, which initialisation and rates
    are made for: where pixels are ``spread`` times as wide (zf5), weights and their gradients' effect are to
    be a ``spread``-th each.
    """
    first = next(part.weight for part in net.network.layers.modules() if isinstance(part, nn.Conv2d))
    spread = sum(IMAGENET.std) / sum(net.network.normalise.std)
    if random:
        with torch.no_grad():
            first /= spread
    weights = [one for one in net.parameters() if one.ndim > 1 and one is not first]
    biases = [one for one in net.parameters() if one.ndim == 1]
    decay = settings.weight_decay
    return [
        {"params": weights, "weight_decay": decay, "factor": 1.0},
        {"params": biases, "weight_decay": 0.0, "factor": 1.0},
        {"params": [first], "weight_decay": decay * spread**2, "factor": 1 / spread**2},
    ]


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
