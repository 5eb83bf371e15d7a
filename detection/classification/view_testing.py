"""Scores images with classifiers: the mean over the views of an image, and over the classifiers (§3.1).

Views are pooled from the feature maps, as proposals are in detection (§3.1.5). The image passes the
convolutions once per scale. A second pass takes the mirrored image: convolutions are not symmetric, so its
map is not the mirrored map. As a check, each view can instead be cut out of the image and passed alone, as
in training. The two ways differ: cells near a view's border see the pixels beyond it in the first way, and
zeros in the second.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from sppnet.common.arrays import FloatArray, Image, IntArray
from sppnet.common.errors import InputError
from sppnet.common.settings import check_choice
from sppnet.detection.backbones import Geometry, weights_digest
from sppnet.detection.classification.classifier import Classifier
from sppnet.detection.classification.views import ScaleViews, ViewName, ViewSettings, make_views, resize
from sppnet.detection.features.parallel import one_a_core
from sppnet.detection.features.pooling import spatial_pyramid_pool
from sppnet.detection.features.projection import Windows, project

Source = Literal["maps", "crops"]
SOURCES: tuple[Source, ...] = get_args(Source)
# Number of crops that pass the network at a time, to bound memory.
_BATCH = 32


@dataclass(frozen=True, eq=False)
class ViewTester:
    """Scores images with classifiers, averaged over views.

    Attributes:
        classifiers: at least one, all with the same classes; they are put into evaluation mode.
        views: the name of the views; see `make_views`.
        settings: the sizes of the views; None: the paper's sizes, in proportion to the size of each
            classifier's training images.
        source: ``maps``: views are pooled from the feature maps; ``crops``: each view is cut out and passed
            alone.

    Raises:
        InputError: the classifiers have different classes, the views or the source are unknown, or a
            classifier without a pyramid cannot take the views.

    Example:
        >>> from sppnet.detection.classification.classifier import ClassifierSettings
        >>> settings = ClassifierSettings("zf5", (2, 1), size=64, width=16)
        >>> tester = ViewTester([Classifier(("cat", "dog"), settings)], views="full")
        >>> tester.scores(np.zeros((80, 110, 3), np.uint8)).shape
        (2,)
    """

    classifiers: Sequence[Classifier]
    views: ViewName = "ten"
    settings: ViewSettings | None = None
    source: Source = "maps"

    def __post_init__(self) -> None:
        check_choice("views", self.views, ViewName)
        check_choice("source", self.source, Source)
        for classifier in self.classifiers:
            classifier.eval()
            if classifier.classes != self.classes:
                raise InputError(
                    f"classifiers of {_shortened(self.classes)} and of {_shortened(classifier.classes)}: "
                    "only classifiers of the same classes, in the same order, can be averaged"
                )
            if classifier.settings.levels:
                continue
            if self.source == "maps" or "full" in self.views:
                raise InputError(
                    f"{classifier.settings.network} without a pyramid takes images of one size only: "
                    "choose views centre, ten or multi, from crops"
                )
            size = self.settings_for(classifier).size
            classifier.check_size(size, size)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the scores."""
        return self.classifiers[0].classes

    def settings_for(self, classifier: Classifier) -> ViewSettings:
        """Returns the sizes of the views for a classifier."""
        return self.settings or ViewSettings.proportional(classifier.settings.size)

    def made_by(self) -> dict[str, Any]:
        """Returns JSON values that identify the scores: they differ for other classifiers, views or sizes."""
        return {
            "classifiers": [
                {
                    "classes": classifier.classes,
                    "settings": asdict(classifier.settings),
                    "weights": weights_digest(classifier),
                    "sizes": asdict(self.settings_for(classifier)),
                }
                for classifier in self.classifiers
            ],
            "views": self.views,
            "source": self.source,
        }

    @torch.inference_mode()
    def scores(self, image: Image) -> FloatArray:
        """Computes the mean softmax scores of an image.

        Args:
            image: uint8 (H, W, 3) RGB, of any size.

        Returns:
            float32 (K,), with sum 1.

        Raises:
            InputError: the image is too long for its width; see `make_views`.
        """
        height, width = image.shape[:2]
        pooled_views = pooled_from_maps if self.source == "maps" else pooled_from_crops
        scores = np.zeros(len(self.classes))
        for classifier in self.classifiers:
            by_scale = [
                pooled_views(classifier, resize(image, views.height, views.width), views)
                for views in make_views(self.views, height, width, self.settings_for(classifier))
            ]
            # All views at once, because reading the layers' weights is most of the work.
            pooled = torch.cat([vectors for vectors, _ in by_scale])
            counts = np.concatenate([counts for _, counts in by_scale])
            softmax = classifier.scores(pooled).double().softmax(dim=1).numpy()
            scores += counts @ softmax / counts.sum()
        return (scores / len(self.classifiers)).astype(np.float32)

    def scores_of_files(
        self, files: Sequence[Path], workers: int = 0
    ) -> Iterator[tuple[Path, FloatArray | InputError]]:
        """Yields each image file, in order, with its `scores` or its error; see `one_a_core`."""
        return one_a_core(self.scores, files, workers)


def pooled_from_maps(classifier: Classifier, image: Image, views: ScaleViews) -> tuple[Tensor, IntArray]:
    """Pools views of one scale from the feature maps of the image and, if needed, of its mirror image.

    Args:
        classifier: a classifier with a pyramid.
        image: uint8 (H, W, 3) RGB, at the scale of the views.
        views: the views.

    Returns:
        float32 (U, length), a vector for each distinct window, and int64 (U,), the number of views with that
        window.
    """
    network = classifier.network
    vectors, counts = [], []
    for flipped in (False, True):
        rows = views.flipped == flipped
        if not rows.any():
            continue
        pixels = image[:, ::-1] if flipped else image
        boxes = views.mirrored_boxes if flipped else views.boxes
        values = network.feature_map(pixels).permute(1, 2, 0).contiguous().numpy()
        windows = view_windows(boxes[rows], (views.height, views.width), network.geometry, values.shape[:2])
        distinct, count = np.unique(windows, axis=0, return_counts=True)
        vectors.append(torch.from_numpy(spatial_pyramid_pool(values, distinct, classifier.settings.levels)))
        counts.append(count)
    return torch.cat(vectors), np.concatenate(counts)


def view_windows(
    boxes: FloatArray, image_size: tuple[int, int], geometry: Geometry, map_size: tuple[int, int]
) -> Windows:
    """Projects views onto the map as detection projects proposals, except at the border.

    A side of a view on the image's border is projected to the map's border. These are the cells that the view
    would have if it were cut out, and so the full image is the whole map.

    Args:
        boxes: float32 (N, 4), xyxy, the views in pixels of the network's input.
        image_size: height and width of the input, in pixels.
        geometry: the geometry of the network.
        map_size: height and width of the map, in cells.

    Returns:
        int32 (N, 4), x0 y0 x1 y1 in cells, right and bottom exclusive.

    Example:
        >>> boxes = np.array([[0, 0, 57, 32], [8, 0, 40, 32]], np.float32)
        >>> view_windows(boxes, (40, 57), Geometry(8, 0.0, 8), (5, 8)).tolist()
        [[0, 0, 8, 4], [2, 0, 5, 4]]
    """
    windows = project(boxes, (1.0, 1.0), geometry, map_size)
    for axis in (0, 1):
        windows[boxes[:, axis] <= 0, axis] = 0
        windows[boxes[:, axis + 2] >= image_size[1 - axis], axis + 2] = map_size[1 - axis]
    return windows


def pooled_from_crops(classifier: Classifier, image: Image, views: ScaleViews) -> tuple[Tensor, IntArray]:
    """Cuts views of one scale out of the image and passes each alone; otherwise like `pooled_from_maps`."""
    rows = np.column_stack([views.boxes, views.flipped]).astype(np.int64)
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    sides = distinct[:, 2:4] - distinct[:, :2]
    vectors: list[Tensor] = []
    order: list[int] = []
    for size in np.unique(sides, axis=0):
        same_size = np.flatnonzero((sides == size).all(axis=1))
        for start in range(0, len(same_size), _BATCH):
            batch = same_size[start : start + _BATCH]
            crops = [classifier.network.normalise(_cut(image, *distinct[index])) for index in batch]
            vectors.append(classifier.pool(classifier.network(torch.cat(crops))))
            order += batch.tolist()
    return torch.cat(vectors), counts[order]


def _cut(image: Image, left: int, top: int, right: int, bottom: int, flipped: int) -> Image:
    crop = image[top:bottom, left:right]
    return crop[:, ::-1] if flipped else crop


@dataclass(frozen=True)
class Agreement:
    """The agreement of scores from feature maps with scores from crops, for the same images.

    Attributes:
        images: number of images.
        difference: mean absolute difference of scores.
        correlation: correlation of scores, over all images and classes; nan if the scores do not vary.
        top1: share of images for which both ways rank the same class first.
        seconds_maps: time to score the images from maps, without decoding.
        seconds_crops: time to score the images from crops, without decoding.
    """

    images: int
    difference: float
    correlation: float
    top1: float
    seconds_maps: float
    seconds_crops: float


def compare_sources(
    tester: ViewTester, images: Iterable[Image], clock: Callable[[], float] = time.perf_counter
) -> Agreement:
    """Scores images from maps and from crops, one image after the other, and compares the scores.

    Args:
        tester: the classifiers and their views; its ``source`` is not used.
        images: uint8 (H, W, 3) RGB, at least one.
        clock: gives the time in seconds.

    Raises:
        InputError: a classifier has no pyramid.
    """
    testers = {source: replace(tester, source=source) for source in SOURCES}
    scores: dict[str, list[FloatArray]] = {source: [] for source in testers}
    seconds = dict.fromkeys(testers, 0.0)
    for number, image in enumerate(images):
        for source, source_tester in testers.items():
            if number == 0:
                # The first call is not timed: it loads and compiles code.
                source_tester.scores(image)
            start = clock()
            scores[source].append(source_tester.scores(image))
            seconds[source] += clock() - start
    maps, crops = np.array(scores["maps"]), np.array(scores["crops"])
    varied = maps.std() > 0 and crops.std() > 0
    return Agreement(
        len(maps),
        float(np.abs(maps - crops).mean()),
        float(np.corrcoef(maps.ravel(), crops.ravel())[0, 1]) if varied else float("nan"),
        float((maps.argmax(axis=1) == crops.argmax(axis=1)).mean()),
        seconds["maps"],
        seconds["crops"],
    )


def _shortened(classes: Sequence[str]) -> str:
    return f"{len(classes)} classes ({', '.join(classes[:3])}{', …' if len(classes) > 3 else ''})"
