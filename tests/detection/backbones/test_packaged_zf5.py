"""The weights of zf5 that come with the project."""

import numpy as np
from safetensors import safe_open

from sppnet.data import load_voc, read_image
from sppnet.detection.backbones import build_network, weights_digest
from sppnet.detection.backbones.packaged import OWN_WEIGHTS
from sppnet.detection.distillation.teachers import Teacher
from sppnet.detection.features.extractor import FeatureExtractor, FeatureSettings


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


def explained(network, teacher, examples):
    """Of the teacher's variance on the last third of the images, what a linear map of it explains."""
    extractor = FeatureExtractor(network, FeatureSettings((344,)))
    seen, wanted = [], []
    for example in examples:
        (one,) = extractor.maps(read_image(example.path))
        height, width, channels = one.values.shape
        columns, rows = (
            network.geometry.offset + network.geometry.stride * np.arange(count, dtype=np.float32)
            for count in (width, height)
        )
        target = teacher.look(example, 0, one.factor, columns, rows)[..., : teacher.parts[0]]
        seen.append(one.values.reshape(-1, channels) / np.abs(one.values).max())
        wanted.append(target.reshape(-1, teacher.parts[0]))
    split = 2 * len(examples) // 3
    inputs, targets = (np.concatenate(part[:split]).astype(np.float64) for part in (seen, wanted))
    mean = targets.mean(axis=0)
    gram = inputs.T @ inputs + 1e-3 * np.trace(inputs.T @ inputs) / inputs.shape[1] * np.eye(inputs.shape[1])
    weights = np.linalg.solve(gram, inputs.T @ (targets - mean))
    tested, expected = np.concatenate(seen[split:]), np.concatenate(wanted[split:])
    error = np.square(tested @ weights + mean - expected).sum(axis=0)
    return float(1 - (error / np.square(expected - mean).sum(axis=0)).mean())


def test_what_they_see_is_what_their_teacher_sees(voc_root, tmp_path, monkeypatch):
    """On images that neither learned from; random weights, and red taken for blue, explain less of it."""
    examples = load_voc(voc_root / "VOC2007", "test").head(24)
    teacher = Teacher("efficientnet_lite0 288", 1, tmp_path, 10**9)
    network = build_network("zf5")
    own = explained(network, teacher, examples)
    random = explained(build_network("zf5", "random"), teacher, examples)
    normalise = network.normalise
    monkeypatch.setattr(network, "normalise", lambda image: normalise(np.ascontiguousarray(image[..., ::-1])))
    swapped = explained(network, teacher, examples)
    # 0.32, 0.02 and 0.30 when the weights were made.
    assert own > 0.28
    assert own > swapped + 0.01
    assert own > random + 0.2
