"""The weights of zf5 that come with the project."""

from dataclasses import replace

import cv2
import numpy as np
import torch
from safetensors import safe_open

from sppnet.data import load_voc, read_image
from sppnet.detection.backbones import build_network, weights_digest
from sppnet.detection.backbones.feature_levels import align
from sppnet.detection.backbones.packaged import OWN_WEIGHTS


def test_zf5_has_weights_of_its_own():
    network = build_network("zf5")
    assert weights_digest(network) != weights_digest(build_network("zf5", "random"))
    assert weights_digest(network) == weights_digest(build_network("zf5", OWN_WEIGHTS["zf5"]))


def test_they_are_float16_and_have_a_card():
    file = OWN_WEIGHTS["zf5"]
    with safe_open(file, "pt") as tensors:
        assert {str(tensors.get_slice(name).get_dtype()) for name in tensors.keys()} == {"F16"}  # noqa: SIM118
    assert file.stat().st_size < 8e6
    card = file.with_suffix(".md").read_text(encoding="utf-8")
    assert "## Figures" in card
    assert "## Licence" in card


def explained_variance(network, teacher, images, teacher_maps):
    """Fits a linear map to the teacher; returns the explained variance on the last third of the images."""
    inputs, targets = [], []
    for image, teacher_map in zip(images, teacher_maps, strict=True):
        cells = network.feature_map(image).flatten(1).T.double().numpy()
        aligned = align(
            teacher_map[None], teacher.geometry, network.geometry, network.cells(*image.shape[:2])
        )
        inputs.append(cells / np.abs(cells).max())
        targets.append(aligned[0].flatten(1).T.double().numpy())
    split = 2 * len(images) // 3
    fitted, tested = np.concatenate(inputs[:split]), np.concatenate(inputs[split:])
    wanted, expected = np.concatenate(targets[:split]), np.concatenate(targets[split:])
    mean = wanted.mean(axis=0)
    gram = fitted.T @ fitted
    gram += 1e-3 * np.trace(gram) / len(gram) * np.eye(len(gram))
    weights = np.linalg.solve(gram, fitted.T @ (wanted - mean))
    error = np.square(tested @ weights + mean - expected).sum(axis=0)
    return float(1 - (error / np.square(expected - mean).sum(axis=0)).mean())


def test_zf5_sees_what_its_teacher_sees(voc_root):
    """On images that neither network has seen; random weights, or red and blue swapped, explain less."""
    images = []
    for example in load_voc(voc_root / "VOC2007", "test").head(24):
        pixels = read_image(example.path)
        factor = 192 / min(pixels.shape[:2])
        images.append(cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR))
    teacher = build_network("efficientnet_lite0")
    with torch.inference_mode():
        teacher_maps = [teacher.level_maps(image)[0] for image in images]
    network = build_network("zf5")
    trained = explained_variance(network, teacher, images, teacher_maps)
    random = explained_variance(build_network("zf5", "random"), teacher, images, teacher_maps)
    network.normalise = replace(network.normalise, to_bgr=False)
    swapped = explained_variance(network, teacher, images, teacher_maps)
    # 0.169, -0.062 and 0.138 with the weights as they were made.
    assert trained > 0.15
    assert trained > swapped + 0.01
    assert trained > random + 0.2
