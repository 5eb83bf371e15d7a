"""The weights of zf5 that come with the project."""

from safetensors import safe_open

from detection.networks import build_network, weights_digest
from detection.networks.packaged import OWN_WEIGHTS


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
