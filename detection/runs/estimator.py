"""The detector that people import: `Detector` with `fit`."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

from sppnet.common.errors import InputError
from sppnet.common.progress import Progress, quiet
from sppnet.data.types import Dataset
from sppnet.detection import detector
from sppnet.detection.runs.pipeline import Pipeline
from sppnet.detection.runs.run import Run
from sppnet.detection.training import HeadName, RunSettings, make_settings
from sppnet.detection.training.presets import settings_by_name
from sppnet.proposals import ProposalCache


class Detector(detector.Detector):
    """The SPP-net detector: `fit` trains it, `predict` detects, `save` and `load` keep it.

    Attributes: see `sppnet.detection.detector.Detector`.

    Example:
        >>> from sppnet import Detector, evaluate_voc, load_dataset
        >>> train, test = (load_dataset("sample", split) for split in ("train", "test"))  # doctest: +SKIP
        >>> detector = Detector.fit(train)  # doctest: +SKIP
        >>> detections = detector.predict(test)  # doctest: +SKIP
        >>> round(100 * evaluate_voc(test, detections).map_11point, 1)  # doctest: +SKIP
        100.0
    """

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        preset: str = "default",
        head: HeadName = "pool5",
        *,
        folder: Path | str | None = None,
        jobs: int = -1,
        map_gb: float = 20.0,
        progress: Progress = quiet,
        **settings: Any,
    ) -> Self:
        """Trains a detector: proposals, feature maps, SVMs with hard negatives, box regression.

        Args:
            dataset: images with ground truth, from `load_dataset`.
            preset: one of `PRESETS`: ``default``, ``paper-1scale``, ``paper-5scale``, ``rcnn``, …
            head: what scores vectors: SVMs on ``pool5``, or, after fine-tuning, on ``fc6`` or ``fc7``, or the
                ``softmax``.
            folder: where proposals, feature maps and checkpoints are kept; called again with the same folder,
                a training that was stopped goes on. None: a temporary folder.
            jobs: processes for proposals; -1: one a core.
            map_gb: bound on stored feature maps, in 10^9 bytes.
            progress: called with a stage's name, how much is done, and how much there is.
            **settings: settings over the preset's, by name (``scales=(480, 688)``), by table
                (``features={"scales": (480, 688)}``) or by both (``**{"features.scales": (480, 688)}``).

        Raises:
            InputError: no data set, an unknown setting (the nearest is named), a wrong value, an image that
                cannot be read, no annotated object, or a full disk.
        """
        if not isinstance(dataset, Dataset):
            raise InputError(f"a data set of type {type(dataset).__name__}; open one with load_dataset")
        resolved = settings_by_name(make_settings(preset), settings)
        with _work_folder(folder) as work, _opened_cache(work, resolved) as cache:
            run = Run(work / "run", resolved, cache, work / "maps", map_gb, head)
            trained = Pipeline(run, jobs, progress=progress).train(dataset)
        return cls(**{field.name: getattr(trained, field.name) for field in fields(trained)})


@contextmanager
def _work_folder(folder: Path | str | None) -> Iterator[Path]:
    if folder is not None:
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory(prefix="sppnet-") as temporary:
        yield Path(temporary)


@contextmanager
def _opened_cache(folder: Path, settings: RunSettings) -> Iterator[ProposalCache]:
    with ProposalCache(folder / "proposals.sqlite", settings.proposer) as cache:
        yield cache
