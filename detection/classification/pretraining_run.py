"""A run of pretraining: its folder with settings, classifier and history."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import tomli_w

from sppnet.common.claim import claim
from sppnet.common.distributed import ALONE, Group
from sppnet.common.errors import InputError
from sppnet.common.parsing import read_json
from sppnet.common.progress import Progress, quiet
from sppnet.data.image_folder import ImageFolder
from sppnet.detection.backbones import build_network, weights_digest
from sppnet.detection.backbones.weights import RANDOM, starting_weights
from sppnet.detection.classification.epochs import Epoch
from sppnet.detection.classification.image_batches import epoch_steps
from sppnet.detection.classification.pretraining import pretrain
from sppnet.detection.classification.pretraining_settings import PretrainingSettings


@dataclass(frozen=True)
class PretrainingRun:
    """The folder of a classifier's training: ``settings.toml``, ``classifier/`` and ``history.json``.

    Attributes:
        folder: the folder of the run, usually ``runs/<name>``.
        train: images to learn from.
        val: images to test on after each epoch; None: no validation.
        settings: the settings of the classifier and of its training.
        weights: the start of the convolutions: a file; ``own``: the network's weights; ``random`` or empty:
            random weights.

    Raises:
        InputError: the name of the weights is wrong, or the warm-up is as long as the training or longer.
    """

    folder: Path
    train: ImageFolder
    val: ImageFolder | None
    settings: PretrainingSettings
    weights: str = ""

    def __post_init__(self) -> None:
        settings = self.settings
        starting_weights(self.weights)
        steps = settings.total_epochs * epoch_steps(settings, len(self.train))
        if settings.warmup_steps >= steps:
            raise InputError(
                f"warmup_steps {settings.warmup_steps}: of {len(self.train)} images there are only {steps} "
                "steps; give fewer, a smaller batch, or more epochs"
            )

    @property
    def classifier(self) -> Path:
        """The folder of the trained classifier."""
        return self.folder / "classifier"

    @property
    def history(self) -> Path:
        """The file with the figures of the epochs."""
        return self.folder / "history.json"

    @property
    def trained(self) -> bool:
        """Whether the run has a trained classifier; one whose description is empty or cut is none."""
        try:
            return bool(read_json(self.classifier / "classifier.json"))
        except InputError:
            return False

    def claim(self) -> None:
        """Writes ``settings.toml``, or checks that it has the same settings already.

        Raises:
            InputError: the folder holds a run with other settings or images, or the weights cannot be read.
        """
        start = starting_weights(self.weights)
        about = {
            "train": f"{len(self.train)} images of {len(self.train.classes)} classes",
            "train_digest": self.train.digest(),
            "val_digest": self.val.digest() if self.val else "",
            # Read before the file is written, so that wrong weights claim no folder.
            "weights": ""
            if start == RANDOM
            else weights_digest(build_network(self.settings.classifier.network, start)),
        }
        claim(self.folder / "settings.toml", tomli_w.dumps(about | asdict(self.settings)))

    def run(
        self,
        progress: Progress = quiet,
        report: Callable[[Epoch], object] = lambda _: None,
        workers: int = 2,
        skip_errors: bool = False,
        group: Group = ALONE,
    ) -> None:
        """Trains the classifier if there is none; continues a training that was stopped.

        Args:
            progress: called with a stage's name, the steps done, and the steps in total.
            report: called after each epoch.
            workers: number of processes that read images; 0: none.
            skip_errors: whether images that cannot be read are left out and counted.
            group: the processes of this training.

        Raises:
            InputError: see `claim` and `pretrain`.
        """
        if not self.trained:
            pretrain(
                self.train, self.val, self.settings, self.folder, progress, report,
                weights=starting_weights(self.weights), workers=workers, skip_errors=skip_errors, group=group,
            )  # fmt: skip
        # A kill between writing the classifier and cleaning up may have left this folder.
        if group.rank == 0:
            shutil.rmtree(self.folder / "training", ignore_errors=True)
