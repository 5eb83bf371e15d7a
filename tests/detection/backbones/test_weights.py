"""Files of weights: formats that are read, and files that are refused with a reason."""

import contextlib
import pickle
import struct
import zipfile

import pytest
import safetensors.torch
import torch
import torchvision
from caffe_files import caffemodel, field, varint
from hypothesis import given, settings
from hypothesis import strategies as st

from sppnet.common.errors import InputError
from sppnet.detection.backbones import build_network, weights_digest
from sppnet.detection.backbones.caffemodel import read_caffemodel
from sppnet.detection.backbones.weights import read_weights


@pytest.fixture(scope="module")
def zf5_state():
    return build_network("zf5", "random", seed=3).layers.state_dict()


@pytest.fixture(scope="module")
def zf5_layers(zf5_state):
    layers = {f"conv{k}": [zf5_state[f"conv{k}.weight"], zf5_state[f"conv{k}.bias"] + k] for k in range(1, 6)}
    return {**layers, "relu5": [], "fc6": [torch.ones(2, 3)]}


@pytest.mark.parametrize("generation", [0, 1, 2], ids=["v0-as-released", "v1", "v2"])
def test_zf5_from_a_caffemodel(tmp_path, zf5_layers, generation):
    path = tmp_path / "ZF5.caffemodel"
    path.write_bytes(caffemodel(zf5_layers, generation))
    loaded = build_network("zf5", path).layers.state_dict()
    for name, tensors in zf5_layers.items():
        if name.startswith("conv"):
            assert torch.equal(loaded[f"{name}.weight"], tensors[0])
            assert torch.equal(loaded[f"{name}.bias"], tensors[1])


def test_caffemodel_with_unpacked_values(tmp_path):
    path = tmp_path / "a.caffemodel"
    shape = field(7, field(1, 2) + field(1, 1))
    values = b"".join(varint(5 << 3 | 5) + struct.pack("<f", value) for value in (1.5, -2.0))
    path.write_bytes(field(100, field(1, b"a") + field(7, shape + values)))
    assert read_caffemodel(path)["a"][0].tolist() == [[1.5], [-2.0]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no layer with weights"),
        (b"\xff" * 30, "does not end"),
        (varint(100 << 3 | 2) + varint(1 << 40), "bytes where"),
        (field(100, field(7, field(7, field(1, varint(1 << 40))) + field(5, bytes(4)))), "holds 4 bytes"),
        (field(100, field(7, field(1, 0))), "holds 0 bytes"),
        (field(100, 7), "a number stands"),
        (varint(100 << 3 | 3), "wire type 3"),
        (field(100, field(7, field(7, field(1, varint(1) * 40)) + field(5, bytes(4)))), "more than 32"),
        (
            2 * field(100, field(1, b"x") + field(7, field(7, field(1, varint(1))) + field(5, bytes(4)))),
            "two layers",
        ),
    ],
    ids=["empty", "noise", "oversized", "huge-shape", "no-data", "number", "group", "dimensions", "twice"],
)
def test_bad_caffemodels_are_named(tmp_path, content, message):
    path = tmp_path / "bad.caffemodel"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        read_caffemodel(path)
    assert "bad.caffemodel" in str(raised.value)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_damage_to_a_caffemodel_crashes(tmp_path_factory, data):
    whole = caffemodel({"conv1": [torch.ones(2, 1, 2, 2), torch.ones(2)]}, data.draw(st.integers(0, 2)))
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for position in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        if position < len(damaged):
            damaged[position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.caffemodel"
    path.write_bytes(damaged)
    with contextlib.suppress(InputError):
        assert read_caffemodel(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.backbone."], ids=["plain", "ddp", "nested"])
def test_weights_from_a_file(tmp_path, zf5_state, suffix, prefix):
    state = {prefix + key: value for key, value in zf5_state.items()} | {"head.weight": torch.ones(2)}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": state, "epoch": 3}, path)
    else:
        safetensors.torch.save_file(state, path)
    network = build_network("zf5", path)
    assert all(torch.equal(network.layers.state_dict()[key], value) for key, value in zf5_state.items())


def test_half_precision_becomes_float32(tmp_path, zf5_state):
    path = tmp_path / "half.safetensors"
    safetensors.torch.save_file({key: value.half() for key, value in zf5_state.items()}, path)
    network = build_network("zf5", path)
    assert network.layers.conv1.weight.dtype == torch.float32
    torch.testing.assert_close(network.layers.conv1.weight, zf5_state["conv1.weight"].half().float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("conv4.bias"), r"no tensor conv4\.bias"),
        (
            lambda state: state.update({"conv2.bias": torch.ones(7)}),
            r"conv2\.bias has shape \(7,\).*\(256,\)",
        ),
        (lambda state: state["conv1.bias"].fill_(float("nan")), r"conv1\.bias .*not finite"),
        (lambda state: state.update({"conv1.extra": torch.ones(1)}), r"no place .*conv1\.extra"),
        (lambda state: state.update({"conv1.bias": torch.ones(96).long()}), "must be floating point"),
    ],
    ids=["missing", "shape", "nan", "extra", "integers"],
)
def test_weights_that_do_not_fit_are_named(tmp_path, zf5_state, change, message):
    state = {key: value.clone() for key, value in zf5_state.items()}
    change(state)
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file(state, path)
    with pytest.raises(InputError, match=message) as raised:
        build_network("zf5", path)
    assert "other.safetensors" in str(raised.value)


def test_a_deeper_variant_is_refused(tmp_path):
    """resnet34 has every tensor of resnet18 with its shape; without a check the maps would be noise."""
    path = tmp_path / "resnet34.pth"
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), path)
    with pytest.raises(InputError, match=r"no place in the network, first layer1\.2"):
        build_network("resnet18", path)


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("executed",))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pth", pickle.dumps(Evil(), protocol=2), "without executing"),
        ("a.pth", b"", "without executing"),
        ("a.safetensors", b"\xff" * 40, "safetensors"),
        ("a.safetensors", b"", "safetensors"),
        ("a.h5", b"x", "unknown kind"),
        ("missing.pth", None, "no such file"),
    ],
    ids=["pickle", "empty-pth", "noise", "empty", "suffix", "missing"],
)
def test_unreadable_files_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        build_network("zf5", path)


def test_a_file_that_holds_no_state_dict(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match="no state dict"):
        build_network("zf5", tmp_path / "list.pt")


def test_a_network_without_weights_says_what_to_pass():
    with pytest.raises(InputError, match="random"):
        build_network("convnet5")


def test_failed_download_says_which_file_to_pass(monkeypatch):
    def offline(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", "/nonexistent-torch-home")
    with pytest.raises(InputError, match=r"alexnet.*download\.pytorch\.org.*pass the file"):
        build_network("alexnet")


@pytest.mark.parametrize("name", ["zf5", "alexnet", "efficientnet_lite0"])
def test_one_seed_one_network(name):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first, same, other = (build_network(name, "random", seed=seed) for seed in (1, 1, 2))
    assert weights_digest(first) == weights_digest(same) != weights_digest(other)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(("name", "channels"), [("alexnet", 256), ("vgg16", 512)])
def test_real_convolution_weights(weights_dir, name, channels):
    network = build_network(name, weights_dir / f"{name}-conv.safetensors")
    stored = safetensors.torch.load_file(weights_dir / f"{name}-conv.safetensors")
    assert all(torch.equal(network.layers.state_dict()[key], value.float()) for key, value in stored.items())
    assert network.channels == channels


def test_the_wrong_network_is_named(weights_dir):
    with pytest.raises(InputError, match="not this network's weights"):
        build_network("vgg16", weights_dir / "alexnet-conv.safetensors")


def test_a_compressed_state_dict_is_refused(tmp_path):
    """Torch does not compress: a small file could swell to any size."""
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "stored.pth")
    bomb = zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "stored.pth") as stored, bomb:
        for name in stored.namelist():
            bomb.writestr(name, stored.read(name))
    assert read_weights(tmp_path / "stored.pth").keys() == {"conv1.weight"}
    with pytest.raises(InputError, match=r"bomb\.pth: .*compressed"):
        read_weights(tmp_path / "bomb.pth")
