"""Reads batches of labelled images, to train and test a classifier, in other processes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from sppnet.common.arrays import Image
from sppnet.common.errors import InputError
from sppnet.data.image_folder import ImageFolder
from sppnet.data.images import read_image
from sppnet.detection.backbones import Normalisation
from sppnet.detection.classification.pretraining_settings import PretrainingSettings
from sppnet.detection.classification.views import resize, resized_size

# Principal axes of the colours of ImageNet's pixels (red, green, blue, 0 to 255), each times the standard
# deviation along the axis (fb.resnet.torch, datasets/imagenet.lua).
_COLOUR_AXES = (
    255
    * np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    * np.array([0.2175, 0.0188, 0.0045])
)
# Each reading process keeps this many batches ready.
_AHEAD = 2
# A number for each kind of random choice, so that the kinds are independent.
_ORDER, _CROP, _SIZE = range(3)
# The positions of a crop, in halves of the room above it and to its left: the centre and the corners.
_POSITIONS = ((1, 1), (0, 0), (0, 2), (2, 0), (2, 2))


@dataclass(frozen=True)
class Request:
    """A request for one image of a batch.

    Attributes:
        index: the index of the image.
        side: side of the square that the image becomes, in pixels.
        epoch: the crop follows from the epoch, the seed and the index; None: the unchanged centre, for tests.

    Example:
        >>> Request(index=3, side=224, epoch=0)
        Request(index=3, side=224, epoch=0)
    """

    index: int
    side: int
    epoch: int | None = None


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """Images of one size, and their labels.

    Attributes:
        images: uint8 (N, S, S, 3), RGB.
        labels: int64 (N,).
        errors: messages about images that could not be read and are left out.
    """

    images: Tensor
    labels: Tensor
    errors: tuple[str, ...]

    def inputs(self, normalise: Normalisation) -> Tensor:
        """Converts the images to a network's input: float32 (N, 3, S, S) in channels-last memory order."""
        pixels = self.images.flip(3) if normalise.to_bgr else self.images
        values = (pixels.float() - torch.tensor(normalise.mean)) / torch.tensor(normalise.std)
        return values.permute(0, 3, 1, 2)


class _Images(TorchDataset[tuple[Image, int] | str]):
    def __init__(self, folder: ImageFolder, settings: PretrainingSettings) -> None:
        self.folder, self.settings = folder, settings

    def __getitem__(self, request: Request) -> tuple[Image, int] | str:
        try:
            image = read_image(self.folder.paths[request.index])
            size = resized_size(image.shape[0], image.shape[1], self.settings.resized_side)
        except InputError as error:
            path = str(self.folder.paths[request.index])
            # The message of an exception would be the trace of another process, so the text is returned.
            return str(error) if path in str(error) else f"{path}: {error}"
        return self.crop(resize(image, *size), request), int(self.folder.labels[request.index])

    def crop(self, image: Image, request: Request) -> Image:
        """Cuts the square of a request, uint8 (side, side, 3), out of an image that is already resized."""
        settings, size = self.settings, self.settings.classifier.size
        room = np.array(image.shape[:2]) - size

        def cut(top: int, left: int) -> Image:
            return resize(image[top : top + size, left : left + size], request.side, request.side)

        if request.epoch is None:
            return cut(*(room // 2).tolist())
        rng = np.random.default_rng((settings.seed, _CROP, request.epoch, request.index))
        if settings.crop == "corners":
            start = room * rng.choice(_POSITIONS) // 2
        else:
            start = rng.integers(0, room, endpoint=True)
        crop = cut(*start.tolist())
        if settings.flip and rng.random() < 0.5:
            crop = crop[:, ::-1]
        if settings.colour:
            crop = shifted(crop, _COLOUR_AXES @ rng.normal(0, settings.colour, 3))
        return crop


def shifted(image: Image, shift: NDArray[np.float64]) -> Image:
    """Adds ``shift``, float (3,), to the pixels of an image; rounds the sums and clips them to 0 to 255.

    Example:
        >>> image = np.array([[[10, 200, 100]]], np.uint8)
        >>> shifted(image, np.array([0.6, 99.0, -0.2])).tolist()
        [[[11, 255, 100]]]
    """
    levels = np.arange(256)[:, None] + shift
    table: Image = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return np.stack([table[image[:, :, channel], channel] for channel in range(3)], axis=2)


def _collate(read: Sequence[tuple[Image, int] | str]) -> ImageBatch:
    good = [item for item in read if not isinstance(item, str)]
    errors = tuple(item for item in read if isinstance(item, str))
    images = np.stack([image for image, _ in good]) if good else np.zeros((0, 1, 1, 3), np.uint8)
    labels = torch.tensor([label for _, label in good], dtype=torch.int64)
    return ImageBatch(torch.from_numpy(images), labels, errors)


def read_batches(
    folder: ImageFolder, requests: Iterable[list[Request]], settings: PretrainingSettings, workers: int
) -> Iterator[ImageBatch]:
    """Reads batches ahead, in the order of the requests.

    Args:
        folder: the images.
        requests: the requests of each batch; they are drawn as far ahead as batches are read.
        settings: the settings of the crops.
        workers: number of processes that read; 0: this process reads, and nothing is read ahead.

    Yields:
        each batch; messages about images that cannot be read are in its ``errors``.
    """
    loader: DataLoader[tuple[Image, int] | str] = DataLoader(
        _Images(folder, settings), batch_sampler=_BatchSampler(requests), collate_fn=_collate,
        num_workers=workers, worker_init_fn=_start_worker, prefetch_factor=_AHEAD if workers else None,
        # Without a generator of its own the loader would draw from torch's global state.
        generator=torch.Generator(),
    )  # fmt: skip
    threads = cv2.getNumThreads()
    if workers:
        # This cannot be done in the worker: a forked process does not have OpenCV's threads, and would wait
        # for ever for them to end.
        cv2.setNumThreads(1)
    batches = iter(loader)
    cv2.setNumThreads(threads)
    yield from batches


class _BatchSampler:
    """Gives `DataLoader` the requests of each batch, from an iterable of any kind."""

    def __init__(self, requests: Iterable[list[Request]]) -> None:
        self.requests = requests

    def __iter__(self) -> Iterator[list[Request]]:
        return iter(self.requests)


def _start_worker(_worker: int) -> None:
    # A forked worker has the number of threads from its parent.
    if cv2.getNumThreads() != 1:
        cv2.setNumThreads(1)


def epoch_requests(
    settings: PretrainingSettings, images: int, epoch: int, rank: int = 0, ranks: int = 1
) -> list[list[Request]]:
    """Returns the batches of an epoch: all images in random order; an incomplete last batch is left out.

    Args:
        settings: seed, batch, sizes.
        images: number of images.
        epoch: number of the epoch, from 0.
        rank: number of this process, which gets its share of each batch.
        ranks: number of processes.

    Example:
        >>> batches = epoch_requests(PretrainingSettings(batch=4), images=10, epoch=0)
        >>> [len(batch) for batch in batches]
        [4, 4]
    """
    order = np.random.default_rng((settings.seed, _ORDER, epoch)).permutation(images).tolist()
    side, batch = epoch_side(settings, epoch), settings.batch
    return [
        [Request(index, side, epoch) for index in order[start : start + batch][rank::ranks]]
        for start in range(0, epoch_steps(settings, images) * batch, batch)
    ]


def epoch_steps(settings: PretrainingSettings, images: int) -> int:
    """Returns the steps in an epoch: the number of complete batches, at least 1.

    Example:
        >>> epoch_steps(PretrainingSettings(batch=4), images=10)
        2
    """
    return max(1, images // settings.batch)


def epoch_side(settings: PretrainingSettings, epoch: int) -> int:
    """Returns the side of the images of an epoch, in pixels (SPP-net §2.3)."""
    large, small = settings.classifier.size, settings.small_size
    match settings.size_schedule:
        case "alternating":
            return (large, small)[epoch % 2]
        case "random":
            return int(np.random.default_rng((settings.seed, _SIZE, epoch)).integers(small, large + 1))
        case _:
            return large


def centre_requests(
    settings: PretrainingSettings, images: int, rank: int = 0, ranks: int = 1
) -> list[list[Request]]:
    """Returns batches with the centre of every image: the share of process ``rank`` of ``ranks``."""
    share = list(range(rank, images, ranks))
    return [
        [Request(index, settings.classifier.size) for index in share[start : start + settings.batch]]
        for start in range(0, len(share), settings.batch)
    ]
