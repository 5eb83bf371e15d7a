"""The images of training, and the pooled vectors of their regions, image by image."""

import functools
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sppnet.common.arrays import FloatArray
from sppnet.common.prefetch import prefetch
from sppnet.data.types import Dataset, Example
from sppnet.detection.features.extractor import Extractor, PooledFeatures, PreparedStore
from sppnet.proposals import Engine, ProposalCache, image_key, propose_cached


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The images of training, and where their proposals and feature maps are kept.

    Attributes:
        dataset: examples with ground truth.
        engine: proposes boxes.
        cache: of proposals; filled where they are missing.
        maps: folder for stored feature maps.
        map_bytes: bound on that folder.

    Example:
        >>> import tempfile
        >>> from sppnet.data import load_dataset
        >>> from sppnet.proposals import SelectiveSearch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     dataset = load_dataset("sample", "train", root=f"{folder}/sample", limit=2)
        ...     engine, path = SelectiveSearch("single"), Path(folder)
        ...     with ProposalCache(path / "proposals.sqlite", engine) as cache:
        ...         data = TrainingData(dataset, engine, cache, path / "maps", 10**9)
        ...         len(data.dataset)
        2
    """

    dataset: Dataset
    engine: Engine
    cache: ProposalCache
    maps: Path
    map_bytes: int


@dataclass(frozen=True, eq=False)
class TrainingImage:
    """An image with the pooled vectors of its regions.

    Attributes:
        index: its number in the data set.
        example: its ground truth.
        boxes: float32 (N, 4), xyxy: ground truth first, then proposals.
        pooled: the vectors of the boxes.
    """

    index: int
    example: Example
    boxes: FloatArray
    pooled: PooledFeatures


def training_images(
    data: TrainingData,
    extractor: Extractor,
    store: PreparedStore,
    indices: Iterable[int],
    with_proposals: Container[int],
    mirrored: bool = False,
) -> Iterator[TrainingImage]:
    """Pools the regions of images; the next image is prepared while the caller works on one.

    Args:
        data: the images.
        extractor: regions to vectors.
        store: of prepared images.
        indices: the images' numbers, in the order to come.
        with_proposals: numbers of the images with proposals; the others have their ground truth alone.
        mirrored: whether images, ground truth and proposals are mirrored.
    """

    def prepare(index: int) -> TrainingImage:
        example = data.dataset[index]
        boxes = example.boxes
        if index in with_proposals:
            proposals = propose_cached(image_key(example), example.read, data.engine, data.cache)
            boxes = np.concatenate([boxes, proposals])
        prepared, width = prepare_image(example, extractor, store, mirrored)
        if mirrored:
            boxes = mirror_boxes(boxes, width)
            example = replace(example, boxes=boxes[: len(example.boxes)])
        return TrainingImage(index, example, boxes, extractor.extract(prepared, boxes))

    yield from prefetch(prepare, indices, ahead=1)


def prepare_image(
    example: Example, extractor: Extractor, store: PreparedStore, mirrored: bool = False
) -> tuple[Any, int]:
    """Gives an image prepared for extraction, from the store or computed, and the image's width.

    A mirrored image is computed by the network and stored beside the others: mirroring a feature map is not
    the same, for filters are not symmetric.

    Args:
        example: the image.
        extractor: prepares it.
        store: of prepared images.
        mirrored: whether the image is mirrored before.
    """
    digest = image_key(example).image_digest
    if not mirrored:
        return store.get(digest, lambda: extractor.prepare(example.read())), example.width
    image = functools.cache(example.read)

    def prepare() -> Any:
        return extractor.prepare(np.ascontiguousarray(image()[:, ::-1]))

    return store.get(f"{digest}-mirrored", prepare), image().shape[1]


def mirror_boxes(boxes: FloatArray, width: int) -> FloatArray:
    """Mirrors boxes from left to right; mirrored twice, they are as they were.

    Args:
        boxes: float32 (N, 4), xyxy.
        width: of the image, in pixels.

    Example:
        >>> mirror_boxes(np.array([[0, 5, 10, 20]], np.float32), 100).tolist()
        [[90.0, 5.0, 100.0, 20.0]]
    """
    mirrored: FloatArray = np.stack(
        [np.float32(width) - boxes[:, 2], boxes[:, 1], np.float32(width) - boxes[:, 0], boxes[:, 3]], axis=1
    )
    return mirrored
