"""Crops of training images that a student learns from, and the teachers' features at their cells."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sppnet.common.arrays import FloatArray, Image
from sppnet.common.errors import InputError
from sppnet.common.prefetch import prefetch
from sppnet.common.progress import Progress
from sppnet.data.types import Dataset
from sppnet.detection.backbones import Geometry
from sppnet.detection.backbones.sequential import SequentialNetwork
from sppnet.detection.distillation.settings import DistillSettings
from sppnet.detection.distillation.standard import Standard
from sppnet.detection.distillation.teachers import Labels, Teacher
from sppnet.detection.features.extractor import resize_to_scales
from sppnet.detection.features.settings import FeatureSettings

# Threads that make crops.
_WORKERS = 2
# Number of each kind of random choice.
_ORDER, _CROP, _HELD_OUT, _STATISTICS = range(1, 5)


@dataclass(frozen=True)
class View:
    """A square part of a resized image, maybe mirrored.

    Attributes:
        scale: index of the scale that the image was resized to.
        left, top: of the crop in the resized image, in pixels.
        side: of the crop, in pixels.
        mirrored: whether the crop is mirrored left to right afterwards.

    Example:
        >>> image = np.arange(6 * 8 * 3).reshape(6, 8, 3)
        >>> View(scale=0, left=2, top=1, side=4, mirrored=False).cut(image).shape
        (4, 4, 3)
    """

    scale: int
    left: int
    top: int
    side: int
    mirrored: bool

    def cut(self, resized: Image) -> Image:
        """The crop, uint8 (side, side, 3), of the resized image."""
        crop = resized[self.top : self.top + self.side, self.left : self.left + self.side]
        return crop[:, ::-1] if self.mirrored else crop

    def pixels(self, geometry: Geometry, cells: int) -> tuple[FloatArray, FloatArray]:
        """Columns and rows of the resized image, in pixels, that the crop's cells are centred on."""
        centres = geometry.offset + geometry.stride * np.arange(cells, dtype=np.float32)
        across = self.side - 1 - centres if self.mirrored else centres
        return self.left + across, self.top + centres


class CropSampler:
    """Draws crops of images at random, each with the teachers' standardised features.

    Each crop follows from the seed and its number.

    Attributes:
        held_out: int64, indices of the images that are not learned from.
        inner: the cells of a crop that count, along both axes; those at the border do not.
        standards: one for each teacher, fitted by `fit_standards` or restored.
    """

    def __init__(
        self,
        dataset: Dataset,
        settings: DistillSettings,
        network: SequentialNetwork,
        teachers: Sequence[Teacher | Labels],
    ) -> None:
        """Splits the images; no image is read yet.

        Args:
            dataset: the images.
            settings: of distilling.
            network: the student's, of which geometry and normalisation are used.
            teachers: who gives the targets.

        Raises:
            InputError: too few images, or crops of which the border leaves nothing.
        """
        self._dataset, self._settings, self._network, self._teachers = dataset, settings, network, teachers
        self._features = FeatureSettings(settings.scales)
        order = np.random.default_rng(settings.seed).permutation(len(dataset))
        held_out = max(1, round(settings.validation * len(dataset)))
        if len(dataset) <= held_out:
            raise InputError(
                f"{dataset.name} {dataset.split}: {len(dataset)} images are too few to learn from"
            )
        self.held_out, self._images = order[:held_out], order[held_out:]
        self._cells = network.cells(settings.crop, settings.crop)[0]
        self.inner = slice(settings.border, self._cells - settings.border)
        if self.inner.stop <= self.inner.start:
            raise InputError(f"crop {settings.crop}: has {self._cells} cells, of which border leaves none")
        self.standards = nn.ModuleList(Standard(sum(teacher.level_channels)) for teacher in teachers)

    def fit_standards(self, progress: Progress) -> None:
        """Fits the standards to crops, not whole images: values differ with the scale, and at a border.

        Args:
            progress: called with the stage's name, images done, images in all.
        """
        by_teacher: list[list[FloatArray]] = [[] for _ in self._teachers]
        chosen = self._images[: self._settings.statistics_images]
        for done, index in enumerate(chosen):
            progress("statistics of the teachers", done, len(chosen))
            _, features = self._crop(int(index), self._rng(_STATISTICS, int(index)))
            for maps, values in zip(by_teacher, features, strict=True):
                maps.append(values)
        for standard, teacher, maps in zip(self.standards, self._teachers, by_teacher, strict=True):
            assert isinstance(standard, Standard)
            standard.fit(maps, alike=isinstance(teacher, Labels))

    def batches(self, step: int) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """The batches from a step on, until the last one.

        Yields:
            normalised images, float32 (N, 3, side, side), and each teacher's targets, float32 (N, C_t, h, w).
        """
        batch = self._settings.batch
        numbers = range(step * batch, self._settings.steps * batch)
        crops: list[tuple[Tensor, list[Tensor]]] = []
        for crop in prefetch(self.sample, numbers, ahead=2 * batch, workers=_WORKERS):
            crops.append(crop)
            if len(crops) == batch:
                images, targets = zip(*crops, strict=True)
                yield torch.cat(images), [torch.stack(maps) for maps in zip(*targets, strict=True)]
                crops = []

    def sample(self, number: int) -> tuple[Tensor, list[Tensor]]:
        """The ``number``-th crop of the whole training.

        Returns:
            the normalised image, float32 (1, 3, side, side), and each teacher's targets, float32 (C_t, h, w).
        """
        epoch, position = divmod(number, len(self._images))
        order = self._rng(_ORDER, epoch).permutation(len(self._images))
        return self._standardised(int(self._images[order[position]]), self._rng(_CROP, number))

    def held_out_sample(self, index: int) -> tuple[Tensor, list[Tensor]]:
        """A crop of a held-out image, always the same; see `sample`."""
        return self._standardised(index, self._rng(_HELD_OUT, index))

    def _rng(self, kind: int, number: int) -> np.random.Generator:
        return np.random.default_rng((self._settings.seed, kind, number))

    def _standardised(self, index: int, rng: np.random.Generator) -> tuple[Tensor, list[Tensor]]:
        image, features = self._crop(index, rng)
        pairs = zip(self.standards, features, strict=True)
        return image, [standard(torch.from_numpy(values)).permute(2, 0, 1) for standard, values in pairs]

    def _crop(self, index: int, rng: np.random.Generator) -> tuple[Tensor, list[FloatArray]]:
        """A normalised crop (1, 3, side, side), and each teacher's features (h, w, C_t) at its cells."""
        example, settings = self._dataset[index], self._settings
        scale = int(rng.integers(len(settings.scales)))
        resized, factor = resize_to_scales(example.read(), self._features)[scale]
        height, width = resized.shape[:2]
        if min(height, width) < settings.crop:
            # Panoramas, whose long side is capped.
            missing = [(0, max(0, settings.crop - side)) for side in (height, width)]
            resized = np.pad(resized, [*missing, (0, 0)])
            height, width = resized.shape[:2]
        left, top = (int(rng.integers(side - settings.crop + 1)) for side in (width, height))
        view = View(scale, left, top, settings.crop, bool(rng.integers(2)))
        columns, rows = view.pixels(self._network.geometry, self._cells)
        columns, rows = columns[self.inner], rows[self.inner]
        features = [teacher.values_at(example, scale, factor, columns, rows) for teacher in self._teachers]
        return self._network.normalise(view.cut(resized)), features
