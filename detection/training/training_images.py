"""The images of training, and the pooled vectors of their regions, image by image."""

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sppnet.common.arrays import BoolArray, FloatArray
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
) -> Iterator[TrainingImage]:
    """Pools the regions of images; the next image is prepared while the caller works on one.

    Args:
        data: the images.
        extractor: regions to vectors.
        store: of prepared images.
        indices: the images' numbers, in the order to come.
        with_proposals: numbers of the images with proposals; the others have their ground truth alone.
    """

    def prepare(index: int) -> TrainingImage:
        example = data.dataset[index]
        key = image_key(example)
        prepared = store.get(key.image_digest, lambda: extractor.prepare(example.read()))
        boxes = example.boxes
        if index in with_proposals:
            proposals = propose_cached(key, example.read, data.engine, data.cache)
            boxes = np.concatenate([boxes, proposals])
        return TrainingImage(index, example, boxes, extractor.extract(prepared, boxes))

    yield from prefetch(prepare, indices, ahead=1)


def positive_objects(example: Example, difficult_positives: bool) -> BoolArray:
    """The objects of an example that are positives: bool (N,).

    Args:
        example: with N objects.
        difficult_positives: whether difficult objects are positives.
    """
    return np.logical_or(difficult_positives, ~example.difficult)
