"""Classifiers: sizes of the paper's networks, the pyramid, files."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sppnet.common.errors import InputError
from sppnet.common.files import file_digest, json_digest
from sppnet.detection.backbones import Geometry, build_network, probe
from sppnet.detection.classification.classifier import Classifier, ClassifierSettings
from sppnet.detection.fc_layers import read_layers
from sppnet.detection.features.pooling import spatial_pyramid_pool

# Sides of the maps after each convolution and the pooling after it (paper table 1), at 224 and 180.
MAPS = {
    "zf5": ([55, 13, 13, 13, 13], [44, 10, 10, 10, 10]),
    "convnet5": ([55, 27, 13, 13, 13], [44, 21, 10, 10, 10]),
    "overfeat5": ([36, 18, 18, 18, 18], [29, 14, 14, 14, 14]),
    "overfeat7": ([36, 18, 18, 18, 18, 18, 18], [29, 14, 14, 14, 14, 14, 14]),
}
# The number of weights: filters times (numbers in a filter + its bias).
CONVOLUTIONS = {
    "zf5": 96 * (3 * 49 + 1)
    + 256 * (96 * 25 + 1)
    + 384 * (256 * 9 + 1)
    + 384 * (384 * 9 + 1)
    + 256 * (384 * 9 + 1),
    "convnet5": 96 * (3 * 121 + 1)
    + 256 * (96 * 25 + 1)
    + 384 * (256 * 9 + 1)
    + 384 * (384 * 9 + 1)
    + 256 * (384 * 9 + 1),
    "overfeat5": 96 * (3 * 49 + 1) + 256 * (96 * 25 + 1) + 512 * (256 * 9 + 1) + 2 * 512 * (512 * 9 + 1),
    "overfeat7": 96 * (3 * 49 + 1) + 256 * (96 * 25 + 1) + 512 * (256 * 9 + 1) + 4 * 512 * (512 * 9 + 1),
}
CHANNELS = {"zf5": 256, "convnet5": 256, "overfeat5": 512, "overfeat7": 512}
BINS = {(6, 3, 2, 1): 50, (4, 3, 2, 1): 30, (): 36}
TINY = ClassifierSettings("zf5", (2, 1), width=16)
THREE = ("bird", "cat", "cow")


@pytest.fixture
def tiny():
    return Classifier(THREE, TINY).eval()


@pytest.mark.parametrize("name", MAPS)
def test_sizes_of_every_map(name):
    network = build_network(name, "random").to("meta")  # shapes alone
    for size, expected in zip((224, 180), MAPS[name], strict=True):
        sides = []
        values = torch.zeros(1, 3, size, size, device="meta")
        for layer, part in network.layers.named_children():
            values = part(values)
            if layer.startswith(("conv", "pool")):
                sides = [*sides[: int(layer[-1]) - 1], values.shape[2]]
        assert sides == expected, size
        assert values.shape == (1, CHANNELS[name], expected[-1], expected[-1])


@pytest.mark.parametrize("levels", BINS, ids=str)
@pytest.mark.parametrize("name", MAPS)
def test_parameters(name, levels):
    inputs = BINS[levels] * CHANNELS[name]
    fully_connected = 4096 * (inputs + 1) + 4096 * (4096 + 1) + 1000 * (4096 + 1)
    with torch.device("meta"):  # shapes alone
        made = Classifier([str(number) for number in range(1000)], ClassifierSettings(name, levels))
    numbers = sum(parameter.numel() for parameter in made.parameters())
    assert numbers == CONVOLUTIONS[name] + fully_connected


@pytest.mark.parametrize(
    ("name", "geometry"),
    [
        # 11 × 11 at stride 4, then 5, pool 3/2, 3, pool 3/2, 3, 3.
        ("convnet5", Geometry(16, (5 - 2) + 4 * 1 + 8 * 1, 11 + 4 * (4 + 2) + 8 * (2 + 2) + 16 * (2 + 2))),
        # 7 × 7 at stride 2, pool 3/3, then 5, pool 2/2, and 3 × 3 from there on.
        ("overfeat5", Geometry(12, 3 + 2 * 1 + 6 * 0.5, 7 + 2 * 2 + 6 * (4 + 1) + 12 * 3 * 2)),
        ("overfeat7", Geometry(12, 3 + 2 * 1 + 6 * 0.5, 7 + 2 * 2 + 6 * (4 + 1) + 12 * 5 * 2)),
    ],
)
def test_geometry(name, geometry):
    network = build_network(name, "random")
    assert network.geometry == geometry
    assert probe(network.layers) == [geometry]


@pytest.mark.parametrize("levels", [(6, 3, 2, 1), (4, 3, 2, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("size", [(13, 13), (10, 10), (5, 17), (1, 3)], ids=str)
def test_pooling_is_that_of_detection(levels, size):
    maps = torch.randn(2, 256, *size)
    classifier = Classifier(THREE, replace(TINY, levels=levels))
    pooled = classifier.pool(maps)
    whole = np.array([[0, 0, size[1], size[0]]], np.int32)
    for values, vector in zip(maps, pooled, strict=True):
        expected = spatial_pyramid_pool(values.permute(1, 2, 0).contiguous().numpy(), whole, levels)[0]
        assert np.array_equal(vector.numpy(), expected)


@pytest.mark.parametrize(("side", "stride"), [(13, 2), (18, 3)])
def test_without_spp_pooling_is_the_originals(side, stride):
    maps = torch.randn(2, 256, side, side)
    pooled = Classifier(THREE, replace(TINY, levels=())).pool(maps)
    expected = torch.nn.functional.max_pool2d(maps, 3, stride)
    assert expected.shape[2:] == (6, 6)
    assert torch.equal(pooled, expected.permute(0, 2, 3, 1).flatten(1))


def test_any_size_with_a_pyramid(tiny):
    with torch.inference_mode():
        assert tiny(torch.randn(2, 3, 90, 131)).shape == (2, 3)
        assert tiny(torch.randn(1, 3, 1, 1)).shape == (1, 3)


def test_one_size_without():
    fixed = Classifier(THREE, replace(TINY, levels=(), size=112)).eval()
    with torch.inference_mode():
        assert fixed(torch.randn(1, 3, 112, 112)).shape == (1, 3)
        with pytest.raises(InputError, match="130 x 112: zf5 without SPP takes 112 x 112"):
            fixed(torch.randn(1, 3, 112, 130))


@pytest.mark.parametrize("name", ["alexnet", "vgg16"])
def test_other_chains(name):
    with torch.inference_mode():
        made = Classifier(THREE, replace(TINY, network=name)).eval()
        assert made(torch.randn(1, 3, 64, 80)).shape == (1, 3)


def test_layers_in_order(tiny):
    pooled = torch.rand(4, tiny.length)
    with torch.inference_mode():
        fc6 = torch.relu(pooled @ tiny.fc6.weight.T + tiny.fc6.bias)
        fc7 = torch.relu(fc6 @ tiny.fc7.weight.T + tiny.fc7.bias)
        torch.testing.assert_close(tiny.features(pooled, "fc6"), fc6)
        torch.testing.assert_close(tiny.features(pooled, "fc7"), fc7)
        torch.testing.assert_close(tiny.scores(pooled), fc7 @ tiny.fc8.weight.T + tiny.fc8.bias)


def test_dropout_while_training(tiny):
    pooled = torch.rand(4, tiny.length)
    assert not torch.equal(tiny.train().scores(pooled), tiny.scores(pooled))


def test_gradients_reach_the_first_layer(tiny):
    tiny(torch.randn(1, 3, 64, 64)).sum().backward()
    assert float(tiny.network.layers.conv1.weight.grad.abs().sum()) > 0


def test_the_seed_makes_it():
    state = torch.random.get_rng_state()
    first, again, other = (Classifier(THREE, replace(TINY, seed=seed)).tensors() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["fc6.weight"], other["fc6.weight"])
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_saved_and_loaded(tiny, tmp_path):
    tiny.save(tmp_path)
    loaded = Classifier.load(tmp_path)
    assert (loaded.classes, loaded.settings, loaded.training) == (tiny.classes, tiny.settings, False)
    images = torch.randn(1, 3, 70, 50)
    with torch.inference_mode():
        assert torch.equal(loaded(images), tiny(images))


def test_the_file_serves_detection(tiny, tmp_path):
    """The file serves as a backbone, and its fc6 and fc7 as a start for fine-tuning."""
    tiny.save(tmp_path)
    file = tmp_path / "classifier.safetensors"
    backbone = build_network("zf5", file)
    assert torch.equal(backbone.layers.conv5.weight, tiny.network.layers.conv5.weight)
    layers = read_layers(file, (2, 1), 256, 16)
    assert torch.equal(layers.factors[0][0], tiny.fc6.weight)


def test_convolutions_from_a_file(tiny, tmp_path):
    save_file(tiny.network.layers.state_dict(), tmp_path / "conv.safetensors")
    other = Classifier(THREE, replace(TINY, seed=9), tmp_path / "conv.safetensors")
    assert torch.equal(other.network.layers.conv1.weight, tiny.network.layers.conv1.weight)
    assert not torch.equal(other.fc6.weight, tiny.fc6.weight)


def _edit(folder, change):
    about = json.loads((folder / "classifier.json").read_text())
    about.pop("digest")
    change(about)
    about["digest"] = json_digest(about)
    (folder / "classifier.json").write_text(json.dumps(about))


def _eight_bits(folder):
    file = folder / "classifier.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"conv1.weight": tensors["conv1.weight"].to(torch.float8_e4m3fn)}, file)
    _edit(folder, lambda about: about.update({file.name: file_digest(file)}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "classifier.safetensors").unlink(), "classifier.safetensors: missing"),
        (lambda f: (f / "classifier.json").unlink(), "classifier.json: missing"),
        (lambda f: (f / "classifier.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "classifier.safetensors").write_bytes(b"x"), "not the file that classifier.json"),
        (lambda f: _edit(f, lambda a: a.update(format=7)), "format 7, expected 1"),
        (lambda f: _edit(f, lambda a: a.pop("classes")), "'classes' is missing"),
        (lambda f: _edit(f, lambda a: a["classes"].append("dog")), "fc8.weight has shape"),
        (lambda f: _edit(f, lambda a: a["settings"].update(network="zf6")), "network 'zf6'"),
        (lambda f: (f / "classifier.json").write_text("[" * 100_000), "classifier.json: .*nested too deep"),
        (lambda f: (f / "classifier.json").write_text("[]"), "classifier.json: .*no JSON object"),
        (lambda f: _edit(f, lambda a: a["settings"].update(width=10**9)), "have width 1000000000"),
        (lambda f: _edit(f, lambda a: a["settings"].update(levels=[10**9])), r"levels \(1000000000,\)"),
        (lambda f: _edit(f, lambda a: a["settings"].update(dropout=float("inf"))), "dropout must be finite"),
        (lambda f: _edit(f, lambda a: a.update(classes=5)), "cannot be read"),
        (lambda f: _eight_bits(f), "conv1.weight is torch.float8_e4m3fn; weights must be floating point"),
    ],
    ids=[
        "weights",
        "description",
        "json",
        "altered",
        "format",
        "classes",
        "shape",
        "settings",
        "deep",
        "list",
        "width",
        "levels",
        "infinity",
        "number",
        "float8",
    ],
)
def test_damaged_folders(tiny, tmp_path, damage, message):
    tiny.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        Classifier.load(tmp_path)


def test_an_altered_description(tiny, tmp_path):
    """A class of another name would be found in silence. Folders of before the digest was kept are read."""
    tiny.save(tmp_path)
    file = tmp_path / "classifier.json"
    whole = file.read_text()
    file.write_text(whole.replace("cat", "cap"))
    with pytest.raises(InputError, match=r"classifier\.json: altered since it was saved"):
        Classifier.load(tmp_path)
    without = json.loads(whole)
    del without["digest"]
    file.write_text(json.dumps(without))
    assert Classifier.load(tmp_path).classes == THREE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "resnet18"}, "choose one of zf5"),
        ({"levels": (3, 0)}, "levels"),
        ({"width": 0}, "width 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
    ids=str,
)
def test_bad_settings(changes, message):
    with pytest.raises(InputError, match=message):
        replace(TINY, **changes)


def test_no_classes():
    with pytest.raises(InputError, match="needs classes"):
        Classifier((), TINY)


def test_names_of_saved_tensors(tiny, tmp_path):
    tiny.save(tmp_path)
    parts = {name.partition(".")[0] for name in load_file(tmp_path / "classifier.safetensors")}
    assert parts == {"conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"}
