"""Testing classifiers: an image's scores are the mean over its views, and over the classifiers (§3.1).

Views come from the feature maps, as windows do in detection (§3.1.5): the image passes the convolutions once
a scale, and once more mirrored, since convolutions are not symmetric and so the map of the mirrored image is
not the mirrored map. Or, to check, each view is cut out of the image and passes on its own, as in training.
The two differ as cells near a view's border see the pixels beyond it in the one and zeros in the other.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from sppnet.common.arrays import FloatArray, Image, IntArray
from sppnet.common.errors import InputError
from sppnet.detection.backbones import Geometry, weights_digest
from sppnet.detection.classification.classifier import Classifier
from sppnet.detection.classification.views import (
    VIEW_NAMES,
    ScaleViews,
    ViewName,
    ViewSettings,
    make_views,
    resize,
)
from sppnet.detection.features.parallel import one_a_core
from sppnet.detection.features.pooling import spatial_pyramid_pool
from sppnet.detection.features.projection import Windows, project

Source = Literal["maps", "crops"]
SOURCES: tuple[Source, ...] = get_args(Source)
# Crops that pass at a time, which bounds memory.
_BATCH = 32


@dataclass(frozen=True, eq=False)
class ViewTester:
    """Classifiers, and the views of an image that they are shown.

    Attributes:
        classifiers: at least one, all of the same classes; they are put into evaluation mode.
        views: which views.
        settings: their sizes; None: the paper's, in proportion to the size of each one's training images.
        source: ``maps``: pooled from the feature maps; ``crops``: each cut out and passed on its own.

    Raises:
        InputError: classifiers of different classes, unknown views or source, or views that one without a
            pyramid cannot take.
    """

    classifiers: Sequence[Classifier]
    views: ViewName = "ten"
    settings: ViewSettings | None = None
    source: Source = "maps"

    def __post_init__(self) -> None:
        for value, choices in ((self.views, VIEW_NAMES), (self.source, SOURCES)):
            if value not in choices:
                raise InputError(f"views {value!r}: choose one of {', '.join(choices)}")
        for one in self.classifiers:
            one.eval()
            if one.classes != self.classes:
                raise InputError(
                    f"classifiers of {_shortened(self.classes)} and of {_shortened(one.classes)}: "
                    "only those of the same classes, in the same order, can be averaged"
                )
            if one.settings.levels:
                continue
            if self.source == "maps" or "full" in self.views:
                raise InputError(
                    f"{one.settings.network} without a pyramid takes images of one size only: "
                    "choose views centre, ten or multi, from crops"
                )
            size = self.settings_for(one).size
            one.check_size(size, size)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that scores are of."""
        return self.classifiers[0].classes

    def settings_for(self, classifier: Classifier) -> ViewSettings:
        """The sizes of the views that a classifier is shown."""
        return self.settings or ViewSettings.proportional(classifier.settings.size)

    def made_by(self) -> dict[str, Any]:
        """JSON values that tell scores of other classifiers, views or sizes apart."""
        return {
            "classifiers": [
                {
                    "classes": one.classes,
                    "settings": asdict(one.settings),
                    "weights": weights_digest(one),
                    "sizes": asdict(self.settings_for(one)),
                }
                for one in self.classifiers
            ],
            "views": self.views,
            "source": self.source,
        }

    @torch.inference_mode()
    def scores(self, image: Image) -> FloatArray:
        """The mean softmax scores of an image.

        Args:
            image: uint8 (H, W, 3) RGB, of any size.

        Returns:
            float32 (K,), summing to 1.

        Raises:
            InputError: the image is a strip, see `make_views`.
        """
        height, width = image.shape[:2]
        pooled_views = pooled_from_maps if self.source == "maps" else pooled_from_crops
        scores = np.zeros(len(self.classes))
        for classifier in self.classifiers:
            parts = [
                pooled_views(classifier, resize(image, one.height, one.width), one)
                for one in make_views(self.views, height, width, self.settings_for(classifier))
            ]
            # All views at once: reading the layers' weights is most of their work.
            pooled = torch.cat([vectors for vectors, _ in parts])
            counts = np.concatenate([counts for _, counts in parts])
            softmax = classifier.scores(pooled).double().softmax(dim=1).numpy()
            scores += counts @ softmax / counts.sum()
        return (scores / len(self.classifiers)).astype(np.float32)

    def scores_of_files(
        self, files: Sequence[Path], workers: int = 0
    ) -> Iterator[tuple[Path, FloatArray | InputError]]:
        """`scores` of each image file in their order, or why there are none; see `one_a_core`."""
        return one_a_core(self.scores, files, workers)


def pooled_from_maps(classifier: Classifier, image: Image, views: ScaleViews) -> tuple[Tensor, IntArray]:
    """Pools views of one scale from the feature maps of the image and, if need be, of its mirror image.

    Args:
        classifier: with a pyramid.
        image: uint8 (H, W, 3) RGB, at the scale of the views.
        views: N of them.

    Returns:
        float32 (U, length), one vector for views that project to the same cells; int64 (U,), how many views
        each is of.
    """
    network = classifier.network
    vectors, counts = [], []
    for flipped in (False, True):
        mine = views.flipped == flipped
        if not mine.any():
            continue
        pixels = image[:, ::-1] if flipped else image
        boxes = views.mirrored_boxes if flipped else views.boxes
        values = network.feature_map(pixels).permute(1, 2, 0).contiguous().numpy()
        cells = view_cells(boxes[mine], (views.height, views.width), network.geometry, values.shape[:2])
        distinct, count = np.unique(cells, axis=0, return_counts=True)
        vectors.append(torch.from_numpy(spatial_pyramid_pool(values, distinct, classifier.settings.levels)))
        counts.append(count)
    return torch.cat(vectors), np.concatenate(counts)


def view_cells(
    boxes: FloatArray, image_size: tuple[int, int], geometry: Geometry, map_size: tuple[int, int]
) -> Cells:
    """Projects views onto the map as detection projects windows.

    But a view's side on the image's border takes the map's: these are the cells that the view cut out would
    have there, and so the full image is the whole map.

    Args:
        boxes: float32 (N, 4), xyxy, pixels of the network's input.
        image_size: height and width of the input.
        geometry: of the network.
        map_size: height and width of the map in cells.

    Returns:
        int32 (N, 4), x0 y0 x1 y1 in cells, right and bottom exclusive.
    """
    cells = project(boxes, (1.0, 1.0), geometry, map_size)
    for axis in (0, 1):
        cells[boxes[:, axis] <= 0, axis] = 0
        cells[boxes[:, axis + 2] >= image_size[1 - axis], axis + 2] = map_size[1 - axis]
    return cells


def pooled_from_crops(classifier: Classifier, image: Image, views: ScaleViews) -> tuple[Tensor, IntArray]:
    """Cuts views of one scale out of the image and passes each on its own; else like `pooled_from_maps`."""
    places = np.column_stack([views.boxes, views.flipped]).astype(np.int64)
    distinct, counts = np.unique(places, axis=0, return_counts=True)
    sides = distinct[:, 2:4] - distinct[:, :2]
    vectors: list[Tensor] = []
    order: list[int] = []
    for size in np.unique(sides, axis=0):
        alike = np.flatnonzero((sides == size).all(axis=1))
        for start in range(0, len(alike), _BATCH):
            batch = alike[start : start + _BATCH]
            crops = [classifier.network.normalise(_cut(image, *distinct[one])) for one in batch]
            vectors.append(classifier.pool(classifier.network(torch.cat(crops))))
            order += batch.tolist()
    return torch.cat(vectors), counts[order]


def _cut(image: Image, left: int, top: int, right: int, bottom: int, flipped: int) -> Image:
    crop = image[top:bottom, left:right]
    return crop[:, ::-1] if flipped else crop


@dataclass(frozen=True)
class Agreement:
    """Views from feature maps against views from crops, of the same images in one run.

    Attributes:
        images: how many.
        difference: mean absolute difference of scores.
        correlation: of scores, over all images and classes; nan where they do not vary.
        top1: share of the images for which both put the same class first.
        seconds_maps: for scoring the images from maps; decoding not counted.
        seconds_crops: likewise, from crops.
    """

    images: int
    difference: float
    correlation: float
    top1: float
    seconds_maps: float
    seconds_crops: float


def compare_sources(tester: ViewTester, images: Iterable[Image]) -> Agreement:
    """Scores images from maps and from crops, one image after the other.

    Args:
        tester: its own source does not matter.
        images: uint8 (H, W, 3) RGB, at least one.

    Raises:
        InputError: a classifier has no pyramid.
    """
    testers = {source: replace(tester, source=source) for source in SOURCES}
    scores: dict[str, list[FloatArray]] = {source: [] for source in testers}
    seconds = dict.fromkeys(testers, 0.0)
    for number, image in enumerate(images):
        for source, one in testers.items():
            if number == 0:
                one.scores(image)  # what is loaded or compiled once is not counted
            start = time.perf_counter()
            scores[source].append(one.scores(image))
            seconds[source] += time.perf_counter() - start
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
