"""A classifier of images: convolutions, spatial pyramid over the whole map, fc6 to fc8 (SPP-net §2, §3.1)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from sppnet.common.errors import DamageError, InputError
from sppnet.common.files import atomic_path, file_digest, json_digest, write_json
from sppnet.common.parsing import read_description
from sppnet.common.settings import override
from sppnet.detection.backbones import build_network
from sppnet.detection.backbones.build import CHAINS
from sppnet.detection.backbones.sequential import SequentialNetwork
from sppnet.detection.backbones.weights import RANDOM, load_exactly, read_weights
from sppnet.detection.features.pooling import PAPER_LEVELS, num_bins

_FORMAT = 1
_WEIGHTS = "classifier.safetensors"
_DESCRIPTION = "classifier.json"
# Paper §3.1.1: without SPP, the pooling after the last convolution gives 6 × 6 cells. It pools 3 × 3 cells at
# stride 2 on a map of 13, and at stride 3 on a map of 18. These cells are the bins of the pyramid level 6.
_WITHOUT_SPP = (6,)
# Standard deviation of the last layer's random weights (Caffe's AlexNet).
_LAST_LAYER = 0.01

Layer = Literal["fc6", "fc7"]


@dataclass(frozen=True)
class ClassifierSettings:
    """The network and the sizes of a classifier.

    Attributes:
        network: zf5, convnet5, overfeat5, overfeat7 (paper table 1), alexnet or vgg16.
        levels: bins per side of each pyramid level: (6, 3, 2, 1) (paper §3.1.2: 50 bins) or (4, 3, 2, 1) (30
            bins). Empty: no SPP, 6 × 6 cells of images of one size (paper §3.1.1).
        size: side of the square training images, in pixels (paper: 224). Without SPP no other size is taken.
        width: number of outputs of fc6 and fc7 (paper: 4,096).
        dropout: dropout after fc6 and fc7 (Krizhevsky et al., to whom the paper refers: 0.5).
        seed: seed of random weights.

    Raises:
        InputError: the network is unknown, or a value is out of range.

    Example:
        >>> ClassifierSettings("alexnet", levels=()).size
        224
    """

    network: str = "zf5"
    levels: tuple[int, ...] = PAPER_LEVELS
    size: int = 224
    width: int = 4096
    dropout: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.network not in CHAINS:
            raise InputError(f"network {self.network!r}: choose one of {', '.join(CHAINS)}")
        if any(type(level) is not int or level < 1 for level in self.levels):
            raise InputError(f"levels {self.levels}: give numbers of at least 1, or none at all for no SPP")
        if self.width < 1 or self.size < 1:
            raise InputError(f"width {self.width}, size {self.size}: give at least 1")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout is {self.dropout}; give a part, from 0 to below 1")


class Classifier(nn.Module):
    """Scores the classes of images: convolutions, pyramid, fc6, ReLU, dropout, fc7, ReLU, dropout, fc8.

    Attributes:
        network: the convolutions; its ``normalise`` turns pixels into input.
        classes: class names, in the order of the scores.
        settings: the network and the sizes.
        length: length of a pooled vector: bins times channels.

    Example:
        >>> classifier = Classifier(("cat", "dog"), ClassifierSettings("zf5", (2, 1), width=16)).eval()
        >>> classifier(torch.zeros(1, 3, 90, 120)).shape
        torch.Size([1, 2])
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     classifier.save(folder)
        ...     Classifier.load(folder).classes
        ('cat', 'dog')
    """

    network: SequentialNetwork

    def __init__(
        self, classes: Sequence[str], settings: ClassifierSettings, weights: Path | str | None = RANDOM
    ) -> None:
        """Makes a classifier with random fully connected layers; torch's global random state is not changed.

        Args:
            classes: class names.
            settings: the network and the sizes.
            weights: the weights of the convolutions, as in `build_network`.

        Raises:
            InputError: there are no classes, or the weights cannot be read or do not fit.
        """
        super().__init__()
        if not classes:
            raise InputError("a classifier needs classes; give at least one")
        self.classes, self.settings = tuple(classes), settings
        network = build_network(settings.network, weights, seed=settings.seed)
        assert isinstance(network, SequentialNetwork), "the settings allow no other network"
        self.network = network
        self.length = num_bins(settings.levels or _WITHOUT_SPP) * network.channels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.fc6 = nn.Linear(self.length, settings.width)
            self.fc7 = nn.Linear(settings.width, settings.width)
            self.fc8 = nn.Linear(settings.width, len(self.classes))
            for layer in (self.fc6, self.fc7):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.normal_(self.fc8.weight, std=_LAST_LAYER)
            for layer in (self.fc6, self.fc7, self.fc8):
                nn.init.zeros_(layer.bias)
        self.dropout = nn.Dropout(settings.dropout)

    def pool(self, maps: Tensor) -> Tensor:
        """Pools whole maps by the pyramid.

        The bins and their order are the same as in `sppnet.detection.features.pooling.spatial_pyramid_pool`,
        so fc6 fits the detector's vectors.

        Args:
            maps: float (N, C, h, w).

        Returns:
            (N, length): level by level, bins row by row, channels within a bin. Gradients pass.
        """
        levels = self.settings.levels or _WITHOUT_SPP
        pooled = [F.adaptive_max_pool2d(maps, level).permute(0, 2, 3, 1).flatten(1) for level in levels]
        return torch.cat(pooled, dim=1)

    def features(self, pooled: Tensor, layer: Layer) -> Tensor:
        """Computes the values of fc6 or fc7 after its ReLU, (N, width), from pooled vectors (N, length)."""
        values = torch.relu(self.fc6(pooled))
        return values if layer == "fc6" else torch.relu(self.fc7(self.dropout(values)))

    def scores(self, pooled: Tensor) -> Tensor:
        """Computes logits (N, K) from pooled vectors (N, length)."""
        logits: Tensor = self.fc8(self.dropout(self.features(pooled, "fc7")))
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Computes logits (N, K) from normalised images (N, 3, H, W).

        Raises:
            InputError: there is no SPP, and the images have another size than ``settings.size``.
        """
        self.check_size(images.shape[2], images.shape[3])
        return self.scores(self.pool(self.network(images)))

    def check_size(self, height: int, width: int) -> None:
        """Checks that the classifier takes images of a size, in pixels.

        Raises:
            InputError: the size is wrong; without SPP there is only one size.
        """
        side = self.settings.size
        if not self.settings.levels and (height, width) != (side, side):
            raise InputError(
                f"an image of {width} x {height}: {self.settings.network} without SPP takes {side} x {side} "
                "alone; resize it, or take a classifier with a pyramid (levels)"
            )

    def tensors(self) -> dict[str, Tensor]:
        """Returns the weights by their names in files: the convolutions' own names, and fc6, fc7, fc8."""
        state = self.network.layers.state_dict()
        for name in ("fc6", "fc7", "fc8"):
            layer: nn.Linear = getattr(self, name)
            state |= {f"{name}.{key}": value for key, value in layer.state_dict().items()}
        return {name: value.detach() for name, value in state.items()}

    def load_tensors(self, tensors: dict[str, Tensor], source: str) -> None:
        """Loads weights.

        Args:
            tensors: the weights by their names in files, as `tensors` returns them.
            source: the origin of the weights, for error messages.

        Raises:
            InputError: a tensor is missing, has another shape, or is not finite.
        """
        load_exactly(self.network.layers, tensors, source)
        layers = nn.ModuleDict({name: getattr(self, name) for name in ("fc6", "fc7", "fc8")})
        load_exactly(layers, tensors, source)

    def save(self, folder: Path | str) -> None:
        """Writes ``classifier.safetensors`` and ``classifier.json`` into ``folder``, replacing old files.

        The file of weights also serves as ``WEIGHTS`` of a detector, and as its ``finetuning.weights``.

        Raises:
            InputError: the folder cannot be written.
        """
        folder = Path(folder)
        description: dict[str, Any] = {
            "format": _FORMAT, "classes": self.classes, "settings": asdict(self.settings)
        }  # fmt: skip
        try:
            with atomic_path(folder / _WEIGHTS) as path:
                save_file({name: value.contiguous() for name, value in self.tensors().items()}, path)
                description[_WEIGHTS] = file_digest(path)
            description["digest"] = json_digest(description)
            write_json(folder / _DESCRIPTION, description)
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{folder}: the classifier cannot be written ({error}); free some space"
            ) from error

    @classmethod
    def load(cls, folder: Path | str) -> "Classifier":
        """Reads a classifier that `save` wrote, in evaluation mode.

        Raises:
            DamageError: a file is missing or cut, or the weights are not those that were written.
            InputError: the description was altered, or is of another format.
        """
        folder = Path(folder)
        file, weights = folder / _DESCRIPTION, folder / _WEIGHTS
        try:
            description = read_description(file, "is no complete classifier; restore it or train again")
            if description["format"] != _FORMAT:
                raise InputError(f"{file}: format {description['format']}, expected {_FORMAT}; train again")
            if file_digest(weights) != description[_WEIGHTS]:
                raise DamageError(
                    f"{weights}: not the file that {file.name} describes; restore it or train again"
                )
            # Before anything is built to an altered description. Files of before this was kept have none.
            if description.pop("digest", None) not in (None, json_digest(description)):
                raise InputError(f"{file}: altered since it was saved; restore it or train again")
            settings = override(ClassifierSettings(), description["settings"], str(file))
            tensors = read_weights(weights)
            _check_sizes(settings, tensors)
            classifier = cls([str(name) for name in description["classes"]], settings)
            classifier.load_tensors(tensors, str(weights))
        except FileNotFoundError as error:
            raise DamageError(
                f"{error.filename}: missing; {folder} is no complete classifier; restore it or train again"
            ) from error
        except DamageError:
            raise
        except InputError as error:
            named = str(folder) in str(error)
            raise InputError(str(error) if named else f"{file}: {error}") from error
        except (KeyError, AttributeError) as error:
            raise InputError(f"{file}: {error} is missing or damaged; train again") from error
        # Of a description that was altered: torch raises errors of many types.
        except Exception as error:
            raise InputError(f"{folder}: the classifier cannot be read ({error}); train again") from error
        return classifier.eval()


def _check_sizes(settings: ClassifierSettings, tensors: dict[str, Tensor]) -> None:
    """Checks the sizes in a description against the weights, before memory is reserved for them."""
    width, length = tensors["fc6.weight"].shape
    if settings.width != width or num_bins(settings.levels or _WITHOUT_SPP) > length:
        raise InputError(
            f"the weights are of width {width} for vectors of length {length}, the settings have width "
            f"{settings.width} and levels {settings.levels}; restore the folder or train again"
        )
