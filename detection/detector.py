"""The detector: an image goes in, detections come out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
from numpy.typing import ArrayLike

from sppnet.common.arrays import FloatArray, Image
from sppnet.common.errors import InputError
from sppnet.common.progress import Progress, quiet
from sppnet.common.stopwatch import Stopwatch
from sppnet.data.detections import Detections
from sppnet.data.types import Dataset
from sppnet.detection.calibration import Calibration
from sppnet.detection.detection_settings import DetectionSettings
from sppnet.detection.fc_layers import FullyConnected
from sppnet.detection.features.extractor import Extractor
from sppnet.detection.features.parallel import ImageSource, as_image, one_a_core
from sppnet.detection.features.rcnn import make_extractor
from sppnet.detection.heads import Head
from sppnet.detection.model_files import read_model, write_model
from sppnet.detection.nms import nms_best_first, suppress
from sppnet.proposals import Engine, OpenCVSelectiveSearch, SelectiveSearch
from sppnet.svm import BoxRegressors, apply_deltas

# No image is so large, and the area of a box up to here is a float32.
_FAR = 1e9


@dataclass(frozen=True, eq=False)
class Detector:
    """SPP-net: proposals, one network pass, pooled vectors, a head, box regression, suppression.

    It is frozen: `dataclasses.replace` makes a detector with other parts.

    Attributes:
        classes: names; the label of a detection is an index into them.
        extractor: the network, and how regions become vectors.
        head: scores vectors.
        regressors: one a class, on pooled vectors; None: boxes stay as they were proposed.
        settings: thresholds of detection.
        engine: proposes boxes where the caller gives none.
        origin: what it was trained from, as JSON values; saved with it.
        layers: fully connected layers between pooled vectors and ``head``, or None.
        clock: seconds spent in each stage so far.
        calibration: turns scores into probabilities; None: scores stay raw.
    """

    classes: tuple[str, ...]
    extractor: Extractor
    head: Head
    regressors: BoxRegressors | None = None
    settings: DetectionSettings = field(default_factory=DetectionSettings)
    engine: Engine = field(default_factory=SelectiveSearch)
    origin: Mapping[str, Any] = field(default_factory=dict)
    layers: FullyConnected | None = None
    clock: Stopwatch = field(default_factory=Stopwatch)
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))

    def __repr__(self) -> str:
        parts = [f"{len(self.classes)} classes", self.extractor.network.name]
        parts.append(f"scales {', '.join(map(str, self.extractor.settings.scales))}")
        parts.append(f"{self.head.kind} head" + (" on fully connected layers" if self.layers else ""))
        return f"{type(self).__name__}({', '.join(parts)})"

    @property
    def working_score(self) -> float:
        """Detections of at least this raw score are worth showing, where there is no calibration."""
        return self.head.working_score

    @property
    def working_thresholds(self) -> FloatArray:
        """Detections of `predict` of at least these scores are worth showing: float32 (C,), one a class."""
        return self.thresholds("f1")

    def thresholds(self, choice: str | float = "f1") -> FloatArray:
        """The least score of each class at which detections of `predict` are worth showing: float32 (C,).

        Args:
            choice: ``"f1"``: the best balance of precision and recall on held-out training images;
                ``"precision:0.9"``: as many detections as there can be while nine of ten are right; or a
                score for all classes. Without a calibration ``"f1"`` is `working_score`.

        Raises:
            InputError: another choice, or a precision without a calibration.
        """
        if self.calibration is not None:
            return self.calibration.thresholds(choice)
        if isinstance(choice, str) and choice != "f1":
            raise InputError(
                f"threshold {choice!r}: the detector has no calibration; train it again, or give a raw score"
            )
        least = self.working_score if isinstance(choice, str) else choice
        return np.full(len(self.classes), least, np.float32)

    def shown(self, detections: Detections, threshold: str | float = "f1") -> Detections:
        """Those detections of `predict` that are worth showing.

        Args:
            detections: of `predict`, not of ``raw_scores``.
            threshold: see `thresholds`.

        Example:
            >>> detections = detector.predict("photo.jpg")  # doctest: +SKIP
            >>> detector.shown(detections)  # doctest: +SKIP
            Detections(2: dog 0.93, person 0.58)
        """
        return detections[detections.scores >= self.thresholds(threshold)[detections.labels]]

    def calibrated(self, detections: Detections) -> Detections:
        """Detections of `detect` with probabilities in place of raw scores.

        A class keeps the order of its detections. Across classes the order may change. Without a calibration
        the detections stay as they are.
        """
        if self.calibration is None:
            return detections
        return replace(
            detections, scores=self.calibration.probabilities(detections.scores, detections.labels)
        )

    def detect(
        self, image: ImageSource, proposals: ArrayLike | None = None, prepared: Any = None
    ) -> Detections:
        """Detects the objects of one image.

        Args:
            image: uint8 (H, W, 3) RGB, a PIL image, or an image file.
            proposals: boxes to score, (N, 4), xyxy, pixel edges; None: the engine proposes them.
            prepared: the image as `Extractor.prepare` gives it; None: it is prepared here.

        Returns:
            detections grouped by class, best first, with the head's raw scores (see `predict` for
            probabilities); boxes that regression moved are clipped to the image.

        Raises:
            InputError: the file is no image, or an array has another form.
        """
        with self.clock("decode"):
            image = as_image(image)
        with self.clock("proposals"):
            boxes = self.engine.propose(image) if proposals is None else _checked_boxes(proposals)
        with self.clock("convolution"):
            prepared = self.extractor.prepare(image) if prepared is None else prepared
        detections, deltas = self.score(prepared, boxes)
        return self.regress(detections, deltas, image.shape[:2])

    def score(self, prepared: Any, boxes: FloatArray) -> tuple[Detections, FloatArray]:
        """The proposals that become detections, and the deltas of their boxes.

        Args:
            prepared: the image, from `Extractor.prepare`.
            boxes: float32 (N, 4), xyxy, pixel edges.

        Returns:
            K detections grouped by class, best first, their boxes as they were proposed; and float32 (K, 4)
            deltas for `svm.apply_deltas`, zeros where there are no regressors.
        """
        with self.clock("pooling"):
            pooled = self.extractor.extract(prepared, boxes)
        vectors = pooled.features
        if self.layers is not None:
            with self.clock("fc"):
                vectors = self.layers(vectors)
        with self.clock("svm"):
            scores = self.head.score(vectors)[pooled.rows]
        with self.clock("nms"):
            rows, labels = suppress(boxes, scores, self.settings)
        detections = Detections(boxes[rows], scores[rows, labels], labels)
        if self.regressors is None:
            return detections, np.zeros_like(detections.boxes)
        with self.clock("regression"):
            deltas = self.regressors.deltas(pooled.features)[pooled.rows[rows], labels]
        return detections, deltas

    def regress(self, detections: Detections, deltas: FloatArray, size: tuple[int, int]) -> Detections:
        """Moves the boxes of detections by their deltas.

        Boxes are clipped to the image and suppressed again, for some now coincide (released code).

        Args:
            detections: K, from `score`.
            deltas: float32 (K, 4), from `score`.
            size: height and width of the image.
        """
        if self.regressors is None:
            return detections
        with self.clock("regression"):
            boxes = apply_deltas(detections.boxes, deltas)
            boxes = np.clip(boxes, 0, np.array([size[1], size[0]] * 2, np.float32))
        with self.clock("nms"):
            kept = [np.zeros(0, np.int64)]
            not_empty = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
            for label in np.unique(detections.labels):
                rows = np.flatnonzero((detections.labels == label) & not_empty)
                kept.append(rows[nms_best_first(boxes[rows], detections.scores[rows], self.settings)])
            chosen = np.concatenate(kept)
        return Detections(boxes[chosen], detections.scores[chosen], detections.labels[chosen])

    @overload
    def predict(
        self,
        images: Dataset,
        threshold: str | float | None = ...,
        *,
        raw_scores: bool = ...,
        workers: int = ...,
        progress: Progress = ...,
    ) -> dict[str, Detections]: ...

    @overload
    def predict(
        self,
        images: list[ImageSource] | tuple[ImageSource, ...],
        threshold: str | float | None = ...,
        *,
        raw_scores: bool = ...,
        workers: int = ...,
        progress: Progress = ...,
    ) -> list[Detections]: ...

    @overload
    def predict(
        self,
        images: ImageSource,
        threshold: str | float | None = ...,
        *,
        raw_scores: bool = ...,
        workers: int = ...,
        progress: Progress = ...,
    ) -> Detections: ...

    def predict(
        self,
        images: ImageSource | Sequence[ImageSource] | Dataset,
        threshold: str | float | None = None,
        *,
        raw_scores: bool = False,
        workers: int = 0,
        progress: Progress = quiet,
    ) -> Detections | list[Detections] | dict[str, Detections]:
        """Detects the objects of an image, of several, or of a data set.

        A detection's score is the probability that it is right, from 0 to 1, as measured on held-out training
        images. Without ``threshold`` all detections come back, improbable ones too, as an evaluation needs
        them.

        Several images are worked on at a time, each on a core of its own.

        Args:
            images: an image (uint8 (H, W, 3) RGB, a PIL image, or an image file), a list of these, or a
                data set.
            threshold: keeps the detections that are worth showing: ``"f1"``, ``"precision:0.9"`` or a
                probability, see `thresholds`; None: all.
            raw_scores: scores as the head gives them: margins of SVMs, or the log-odds of a softmax. The
                threshold is on probabilities all the same. A detector without calibration has no others.
            workers: images at a time; 0: one a core.
            progress: called with a stage's name, images done, images in all.

        Returns:
            detections of the image; a list of them; or a dictionary of them by image id.

        Raises:
            InputError: an image cannot be read, or a wrong threshold.

        Example:
            >>> from sppnet import Detector
            >>> detector = Detector.load("model")  # doctest: +SKIP
            >>> detector.predict("photo.jpg", "f1")  # doctest: +SKIP
            Detections(2: dog 0.93, person 0.58)
            >>> detector.predict("photo.jpg", "precision:0.9")  # doctest: +SKIP
            Detections(1: dog 0.93)
        """
        least = None if threshold is None else self.thresholds(threshold)

        def finished(detections: Detections) -> Detections:
            scored = self.calibrated(detections)
            kept = slice(None) if least is None else scored.scores >= least[scored.labels]
            return replace(detections if raw_scores else scored, classes=self.classes)[kept]

        if isinstance(images, Dataset):
            ids = [example.image_id for example in images]
            results = map(finished, self._detect_each(list(images), workers, progress))
            return dict(zip(ids, results, strict=True))
        if isinstance(images, list | tuple):
            return [finished(detections) for detections in self._detect_each(images, workers, progress)]
        return finished(self.detect(images))

    def _detect_each(
        self, images: Sequence[ImageSource], workers: int, progress: Progress
    ) -> Iterator[Detections]:
        """The detections of each image with raw scores."""
        for done, (_, result) in enumerate(self.detect_all(images, workers), start=1):
            if isinstance(result, InputError):
                raise result
            yield result[1]
            progress("detection", done, len(images))

    def detect_all(
        self, images: Sequence[ImageSource], workers: int = 0
    ) -> Iterator[tuple[ImageSource, tuple[Image, Detections] | InputError]]:
        """Detects in many images, one a core; an image that cannot be read does not stop the rest.

        One image is mostly Selective Search, which takes one core; so each worker takes an image of its own,
        from decoding to suppression, with one thread. Convolution rounds by the number of its threads:
        scores may differ from those of `detect` in their last digits.

        Args:
            images: see `predict`.
            workers: images at a time; 0: one a core. OpenCV's Selective Search draws from one random state,
                so it takes one.

        Yields:
            the image as it was given; decoded image and detections with raw scores (see `calibrated`), or
            why it cannot be read.
        """
        if isinstance(self.engine, OpenCVSelectiveSearch):
            workers = 1
        return one_a_core(lambda image: (image, self.detect(image)), images, workers)

    def approximated(self, fc_rank: int = 0, bfloat16: bool = False) -> Self:
        """A faster and less exact detector.

        Args:
            fc_rank: fully connected layers are truncated to this rank (Fast R-CNN §3.1); 0: they are not.
            bfloat16: whether convolutions and fully connected layers are computed in bfloat16.

        Raises:
            InputError: a rank for a detector without fully connected layers.
        """
        layers, extractor = self.layers, self.extractor
        if fc_rank:
            if layers is None:
                raise InputError(
                    f"fc_rank {fc_rank}: the detector has no fully connected layers; leave it out"
                )
            layers = layers.truncated(fc_rank)
        if bfloat16:
            extractor = make_extractor(extractor.network, replace(extractor.settings, bfloat16=True))
            layers = None if layers is None else layers.rounded()
        return replace(self, extractor=extractor, layers=layers)

    def save(self, folder: Path | str, half: bool = False) -> None:
        """Writes ``model.safetensors`` and ``model.json`` into ``folder``, replacing a model there.

        Args:
            folder: created if it is missing.
            half: whether weights are rounded to float16, which takes half of the space.

        Raises:
            InputError: the folder cannot be written.
        """
        write_model(self, Path(folder), half)

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Reads a detector that `save` wrote.

        Raises:
            InputError: a file is missing, altered, or of another format.
        """
        return cls(**read_model(Path(folder)))


def _checked_boxes(boxes: ArrayLike) -> FloatArray:
    try:
        given = np.asarray(boxes)
        if given.dtype.kind in "bc":
            raise TypeError(f"an array of {given.dtype}")
        checked = given.astype(np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"proposals: {error}; give boxes (N, 4), xyxy, in pixels") from error
    checked = checked.reshape(-1, 4) if checked.size == 0 else checked
    if checked.ndim != 2 or checked.shape[1] != 4 or not (np.abs(checked) < _FAR).all():
        raise InputError(
            f"proposals of shape {checked.shape}; give finite boxes (N, 4), xyxy, in pixels of the image"
        )
    return checked
