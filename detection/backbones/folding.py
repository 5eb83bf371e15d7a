"""Folds batch normalisations into the convolutions before them, which saves a pass over each map."""

import copy
from typing import cast

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

# Other subclasses derive their weights (weight standardisation) and cannot take up a factor.
_FOLDABLE = (nn.Conv2d, Conv2dSame)
_TOLERANCE = 1e-4


def fold_batch_norms(layers: nn.Module) -> nn.Module:
    """Copies a network with its batch normalisations folded into the convolutions before them.

    Args:
        layers: the network, in evaluation mode.

    Returns:
        the copy; or ``layers`` itself if the copy's maps differ by more than 1e-4 of their largest value, for
        example because the network reads a convolution's output in another place, too.
    """
    folded = fold_structure(layers)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        for before, after in zip(layers(image), folded(image), strict=True):
            if (before - after).abs().max() > _TOLERANCE * before.abs().max():
                return layers
    return folded


def fold_structure(layers: nn.Module) -> nn.Module:
    """Folds like `fold_batch_norms`, but does not compare maps; for networks that get their weights later."""
    folded = copy.deepcopy(layers)
    names = {part: name for name, part in folded.named_modules()}
    for convolution, norm in _pairs(folded):
        _fold(convolution, norm)
        activation = norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity()
        folded.set_submodule(names[norm], activation)
    return folded


def _pairs(layers: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Finds convolutions and the batch normalisations right after them by running the network once."""
    produced: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after_convolution(module: nn.Module, _inputs: object, output: Tensor) -> None:
        # A reference to the tensor prevents that another tensor gets its id.
        produced[id(output)] = (cast(nn.Conv2d, module), output)

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in produced:
            pairs.append((produced[id(inputs[0])][0], cast(nn.BatchNorm2d, module)))

    handles = [
        part.register_forward_hook(after_convolution) for part in layers.modules() if type(part) in _FOLDABLE
    ]
    handles += [
        part.register_forward_pre_hook(before_norm)
        for part in layers.modules()
        if isinstance(part, nn.BatchNorm2d) and part.affine and part.track_running_stats
    ]
    with torch.inference_mode():
        layers(torch.zeros(1, 3, 64, 64))
    for handle in handles:
        handle.remove()
    return pairs


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Folds in float64 and rounds once, so that the result is the same on every machine."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = 0.0 if convolution.bias is None else convolution.bias.double()
    weight = (convolution.weight.double() * factor[:, None, None, None]).float()
    shift = (norm.bias.double() + (bias - norm.running_mean.double()) * factor).float()
    convolution.weight = nn.Parameter(weight.detach())
    convolution.bias = nn.Parameter(shift.detach())
