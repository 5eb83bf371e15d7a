"""Vectors of whole images for linear classification: a view, its map, the pyramid over all of it (§3.2)."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sppnet.common.arrays import FloatArray, Image
from sppnet.common.checkpoint import Checkpoint
from sppnet.common.errors import InputError
from sppnet.common.settings import check_choice
from sppnet.data.images import image_digest
from sppnet.detection.backbones import Network, fit_feature_levels, weights_digest
from sppnet.detection.backbones.kept_feature_levels import set_kept_feature_levels
from sppnet.detection.classification.classifier import Classifier
from sppnet.detection.classification.views import resize, resized_size
from sppnet.detection.features.parallel import one_a_core
from sppnet.detection.features.pooling import PAPER_LEVELS, num_bins, spatial_pyramid_pool

View = Literal["crop", "full", "warp"]
ImageLayer = Literal["conv", "fc6", "fc7"]


@dataclass(frozen=True)
class ImageFeatureSettings:
    """How a whole image becomes a vector.

    Attributes:
        view: ``full``: the whole image, its short side resized to the scale; ``crop``: the square in the
            middle of that (§3.2); ``warp``: the image resized to that square, whatever its shape (§3.3).
        scales: in pixels (§3.2: 224, best 392); the normalised vectors of several are averaged, our own.
        layer: ``conv``: the pyramid's vector; ``fc6``, ``fc7``: the values of a classifier's layer.
        levels: bins a side of the pyramid's levels; a classifier has its own instead. The "pool5" rows of
            tables 6 and 7 take 6 alone.

    Raises:
        InputError: an unknown choice, or a value out of range.

    Example:
        >>> ImageFeatureSettings("crop", scales=(224, 392)).layer
        'conv'
    """

    view: View = "full"
    scales: tuple[int, ...] = (224,)
    layer: ImageLayer = "conv"
    levels: tuple[int, ...] = PAPER_LEVELS

    def __post_init__(self) -> None:
        check_choice("view", self.view, View)
        check_choice("layer", self.layer, ImageLayer)
        if not self.scales or min(self.scales) < 1:
            raise InputError(f"scales {self.scales}: give at least one, each at least 1 pixel")
        if not self.levels or min(self.levels) < 1:
            raise InputError(f"levels {self.levels}: give at least one, each at least 1")


def take_view(image: Image, view: View, scale: int) -> Image:
    """The part of an image that the network sees, resized.

    Args:
        image: uint8 (H, W, 3).
        view: see `ImageFeatureSettings`.
        scale: short side of the view, in pixels.

    Returns:
        uint8 (h, w, 3), resized bilinearly; ``scale`` × ``scale`` unless the view is ``full``.

    Raises:
        InputError: the image is more than 16 times as long as wide, and the view is not ``warp``.

    Example:
        >>> take_view(np.zeros((375, 500, 3), np.uint8), "full", 224).shape
        (224, 299, 3)
    """
    if view == "warp":
        return resize(image, scale, scale)
    resized = resize(image, *resized_size(image.shape[0], image.shape[1], scale))
    if view == "full":
        return resized
    top, left = (resized.shape[0] - scale) // 2, (resized.shape[1] - scale) // 2
    return resized[top : top + scale, left : left + scale]


class ImageFeatureExtractor:
    """Vectors of whole images, from a network alone or from a classifier.

    Attributes:
        network: the convolutions.
        classifier: has the fully connected layers that may follow; None for a network alone.
        settings: how an image becomes a vector.

    Example:
        >>> from sppnet.detection.backbones import build_network
        >>> settings = ImageFeatureSettings("warp", (64,), levels=(2, 1))
        >>> extractor = ImageFeatureExtractor(build_network("zf5", "random"), settings)
        >>> extractor(np.zeros((80, 110, 3), np.uint8)).shape
        (1280,)
    """

    def __init__(self, source: Network | Classifier, settings: ImageFeatureSettings) -> None:
        """Puts the network or classifier into evaluation mode.

        Args:
            source: the network or classifier.
            settings: how an image becomes a vector.

        Raises:
            InputError: a fully connected layer is asked of a network alone.
        """
        self.classifier = source if isinstance(source, Classifier) else None
        self.network: Network = source.network if isinstance(source, Classifier) else source
        # A classifier as it is made would drop out half of fc6 on the way to fc7.
        source.eval()
        self.settings = settings
        if self.classifier is None and settings.layer != "conv":
            raise InputError(
                f"layer {settings.layer}: {self.network.name} has convolutions only; take conv, "
                "or a trained classifier"
            )

    @property
    def length(self) -> int:
        """Numbers in a vector: bins of the pyramid times channels, or the layer's width."""
        if self.classifier is None:
            return num_bins(self.settings.levels) * self.network.channels
        conv = self.settings.layer == "conv"
        return self.classifier.length if conv else self.classifier.settings.width

    def made_by(self) -> dict[str, Any]:
        """JSON values that differ for vectors of other settings or weights."""
        return {
            "weights": weights_digest(self.classifier or self.network),
            "network": self.network.config(),
            "classifier": asdict(self.classifier.settings) if self.classifier else None,
            "settings": asdict(self.settings),
        }

    def fit_feature_levels(self, paths: Sequence[Path], folder: Path) -> None:
        """Fits the constants that join the feature levels of a network, once a folder.

        They are kept there, for all stored vectors are named by a digest of them.

        Args:
            paths: images.
            folder: where the constants are kept.

        Raises:
            InputError: an image cannot be read, or is no size that the view can take.
        """
        network = self.network
        if len(network.feature_levels.level_channels) == 1:
            return
        kept = Checkpoint(
            folder, {"taps of": self.made_by(), "images": [image_digest(path) for path in paths]}
        )
        set_kept_feature_levels(network, kept, lambda: fit_feature_levels(self._level_maps(paths)))

    def _level_maps(self, paths: Sequence[Path]) -> Iterator[list[Tensor]]:
        def compute(image: Image) -> list[list[Tensor]]:
            return [self.network.level_maps(view) for view in self._views(image)]

        for _, maps in one_a_core(compute, paths):
            if isinstance(maps, InputError):
                raise maps
            yield from maps

    def __call__(self, image: Image) -> FloatArray:
        """The vector of an image.

        Args:
            image: uint8 (H, W, 3), RGB.

        Returns:
            float32 (length,) of L2 norm 1, or all zero where the network gives nothing else.

        Raises:
            InputError: an image of a size that the view, or a classifier without SPP, cannot take.
        """
        vectors = [_normalised(self._vector(view)) for view in self._views(image)]
        return _normalised(np.mean(vectors, axis=0))

    def _views(self, image: Image) -> list[Image]:
        return [take_view(image, self.settings.view, scale) for scale in self.settings.scales]

    @torch.inference_mode()
    def _vector(self, view: Image) -> FloatArray:
        if self.classifier is None:
            values = self.network.feature_map(view).permute(1, 2, 0).contiguous().numpy()
            whole_map = np.array([[0, 0, values.shape[1], values.shape[0]]], np.int32)
            vectors = spatial_pyramid_pool(values, whole_map, self.settings.levels)
        else:
            self.classifier.check_size(*view.shape[:2])
            pooled = self.classifier.pool(self.network(self.network.normalise(view)))
            if self.settings.layer != "conv":
                pooled = self.classifier.features(pooled, self.settings.layer)
            vectors = pooled.numpy()
        vector: FloatArray = vectors[0]
        return vector


def _normalised(vector: FloatArray) -> FloatArray:
    norm = np.linalg.norm(vector)
    normalised: FloatArray = vector / norm if norm > 0 else vector
    return normalised
