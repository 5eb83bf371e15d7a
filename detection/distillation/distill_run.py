"""A run of distilling: its folder, claimed by its settings, and the weights in it."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import tomli_w
from safetensors.torch import save_file
from torch import Tensor

from sppnet.common.claim import claim
from sppnet.common.errors import InputError
from sppnet.common.files import atomic_path, file_digest, write_json
from sppnet.common.outputs import check_output_folder
from sppnet.common.parsing import read_json
from sppnet.common.progress import Progress, quiet
from sppnet.data.types import Dataset
from sppnet.detection.distillation.distill import Distilling, Point, learned_digest, sources_digests
from sppnet.detection.distillation.settings import DistillSettings

_LOG = logging.getLogger(__name__)
_WEIGHTS_DIGEST = "weights_digest"


@dataclass(frozen=True)
class DistillRun:
    """The folder of a distilled network: ``settings.toml``, weights, ``snapshots/`` and ``history.json``.

    Attributes:
        folder: usually ``runs/<name>``.
        settings: of the training.
    """

    folder: Path
    settings: DistillSettings

    @property
    def weights(self) -> Path:
        """The file of the trained weights."""
        return self.folder / f"{self.settings.network}.safetensors"

    @property
    def history(self) -> Path:
        """The file of the validations and the digest of the weights; it is written last."""
        return self.folder / "history.json"

    @property
    def trained(self) -> bool:
        """Whether there are trained weights; a warning names files that are not as they were written."""
        if not self.history.exists():
            return False
        try:
            written = read_json(self.history)
            # Version 0.1.0 wrote the list of the validations alone.
            known = written[_WEIGHTS_DIGEST] if isinstance(written, dict) else None
            whole = isinstance(written, dict | list) and known in (None, file_digest(self.weights))
        except (OSError, InputError, KeyError):
            whole = False
        if not whole:
            _LOG.warning(
                "%s: cut, or %s beside it is not the file that it describes; it counts as not trained yet",
                self.history, self.weights.name,
            )  # fmt: skip
        return whole

    def run(
        self, dataset: Dataset, maps: Path, map_bytes: int, progress: Progress = quiet
    ) -> Sequence[Point] | None:
        """Trains the network, going on where that was stopped.

        Args:
            dataset: its images are learned from.
            maps: folder where the teachers' maps are stored.
            map_bytes: bound on it.
            progress: called with a stage's name, steps done, steps in all.

        Returns:
            the validations in order; None: the network was trained before.

        Raises:
            InputError: the folder holds a run with other settings or images; or see `Distilling`.
        """
        settings, work = self.settings, self.folder / "training"
        start = Path(settings.start)
        digests = {
            "images_digest": learned_digest(dataset, settings),
            "teachers_digests": sources_digests(settings),
            "start_digest": file_digest(start) if start.is_file() else "",
        }
        about = tomli_w.dumps(digests | asdict(settings))
        if self.trained:
            claim(self.folder / "settings.toml", about)
            # What a kill between writing and cleaning up left.
            shutil.rmtree(work, ignore_errors=True)
            return None
        check_output_folder(maps)
        job = Distilling(dataset, settings, maps, map_bytes, work, progress, self._keep)
        # Once it is known that there are such teachers: a training that cannot begin claims no folder.
        claim(self.folder / "settings.toml", about)
        network, points = job.run()
        _write_weights(self.weights, dict(network.layers.state_dict()))
        # A last step with too high a rate can leave figures that are not finite.
        history = {_WEIGHTS_DIGEST: file_digest(self.weights), "points": [asdict(point) for point in points]}
        write_json(self.history, history, allow_nan=True)
        shutil.rmtree(work, ignore_errors=True)
        return points

    def _keep(self, step: int, weights: Mapping[str, Tensor]) -> None:
        _write_weights(self.folder / "snapshots" / f"{step:06d}.safetensors", weights)


def _write_weights(file: Path, weights: Mapping[str, Tensor]) -> None:
    """Writes weights as float16, which halves the file; the rounding is far below their noise."""
    with atomic_path(file) as path:
        save_file({name: tensor.half().contiguous() for name, tensor in weights.items()}, path)
