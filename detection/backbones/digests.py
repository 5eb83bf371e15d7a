"""Digests of tensors: stored maps and models name the weights that made them by a digest."""

import hashlib
from collections.abc import Mapping

from torch import Tensor, nn


def weights_digest(network: nn.Module) -> str:
    """Computes the `tensors_digest` of a network's ``state_dict``.

    Example:
        >>> from sppnet.detection.backbones import build_network
        >>> first, same, other = (build_network("zf5", "random", seed=seed) for seed in (0, 0, 1))
        >>> weights_digest(first) == weights_digest(same), weights_digest(first) == weights_digest(other)
        (True, False)
    """
    return tensors_digest(network.state_dict())


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Computes a SHA-256, in hexadecimal, over the names, shapes and bytes of tensors, in order of names.

    Example:
        >>> import torch
        >>> tensors_digest({"fc6.bias": torch.zeros(2)})[:16]
        'f335522ebdaeca07'
    """
    digest = hashlib.sha256()
    for key, tensor in sorted(tensors.items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
