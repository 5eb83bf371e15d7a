"""timm's networks: the default's weights and geometry, feature levels, padding, folding, and saving."""

import copy
import json

import cv2
import numpy as np
import pytest
import timm
import torch
from timm.layers.conv2d_same import Conv2dSame

from sppnet.common.errors import InputError
from sppnet.data.images import read_image
from sppnet.detection.backbones import (
    Geometry,
    build_network,
    fit_feature_levels,
    network_from_config,
    probe,
    weights_digest,
)
from sppnet.detection.backbones.folding import fold_batch_norms
from sppnet.detection.backbones.packaged import packaged_weights, timm_names
from sppnet.detection.backbones.timm_models import timm_layers
from sppnet.detection.backbones.timm_nets import DivisibleConv2dSame
from sppnet.detection.backbones.weights import read_weights


@pytest.fixture(scope="module")
def lite0():
    return build_network("efficientnet_lite0")


@pytest.fixture(scope="module")
def full_model():
    """timm's whole network with the packaged weights, batch normalisation and classifier included."""
    model = timm.create_model("tf_efficientnet_lite0").eval()
    stages = [len(stage) for stage in model.blocks]
    model.load_state_dict(timm_names(read_weights(packaged_weights("efficientnet_lite0")), stages, "package"))
    return model


@pytest.fixture(scope="module")
def image():
    """Smooth noise, so that it has edges at all scales."""
    small = np.random.default_rng(0).integers(0, 256, (24, 28, 3), dtype=np.uint8)
    return cv2.resize(small, (224, 192), interpolation=cv2.INTER_CUBIC)


def test_digests_and_names_in_files_stay(lite0):
    """Maps on disk are found by the digest; saved models hold the tensors by these names."""
    digest = "d5f503ba4f0dbe50ddaba00eb18a8e012fcd167a9d41d9371e59bf9b05540886"
    assert weights_digest(lite0) == digest
    names = list(lite0.state_dict())
    assert names[0] == "body.conv_stem.weight"
    assert names[-1] == "taps.scales"
    assert {name.partition(".")[0] for name in names} == {"body", "taps"}


def test_channels_and_geometry(lite0):
    assert lite0.channels == 112 + 320
    # Offsets of the trained network; see TRAINED_OFFSETS.
    assert lite0.level_geometries == (Geometry(16, 9.0, 339), Geometry(32, 17.0, 851))
    assert lite0.geometry == Geometry(16, 9.0, 851)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("size", [(12, 18), (13, 12), (6, 7)])
def test_same_convolution_without_a_padded_copy(kernel, stride, dilation, size):
    torch.manual_seed(kernel)
    original = Conv2dSame(4, 4, kernel, stride, dilation=dilation, groups=4)
    maps = torch.randn(2, 4, *size)
    with torch.inference_mode():
        torch.testing.assert_close(DivisibleConv2dSame.of(original)(maps), original(maps))


def test_network_pads_no_copy(lite0, image, monkeypatch):
    def refuse(self, x):
        raise AssertionError(f"a padded copy of {tuple(x.shape)}")

    monkeypatch.setattr(Conv2dSame, "forward", refuse)
    assert lite0.feature_map(image[:190, :200]).shape == (432, 12, 13)


def test_probe_of_tensorflow_padding():
    # Even sizes are padded by (0, 1) for kernels of 3, (1, 2) for 5: each moves it by the stride so far.
    measured = probe(timm_layers("efficientnet_lite0", (2, 4, 8, 16, 32)))
    assert [(level.stride, level.offset) for level in measured] == [
        (2, 1),
        (4, 3),
        (8, 7),
        (16, 15),
        (32, 31),
    ]


def test_weights_pair_by_structure_as_by_order(full_model):
    published = read_weights(packaged_weights("efficientnet_lite0"))
    assert len(published) == 296
    for (name, tensor), original in zip(full_model.state_dict().items(), published.values(), strict=True):
        assert torch.equal(tensor, original), name


def test_an_unknown_tensor_is_refused():
    with pytest.raises(InputError, match=r"_blocks\.16"):
        timm_names({"_blocks.16._bn1.weight": torch.zeros(1)}, [1, 15], "file")
    with pytest.raises(InputError, match="_se_reduce"):
        timm_names({"_blocks.0._se_reduce.weight": torch.zeros(1)}, [1], "file")


def test_maps_equal_the_full_model(lite0, full_model, image):
    with torch.inference_mode():
        images = lite0.normalise(image)
        expected = full_model.forward_intermediates(images, indices=[3, 4], intermediates_only=True)
        for level, whole in zip(lite0.layers(images), expected, strict=True):
            torch.testing.assert_close(level, whole, atol=1e-4 * float(whole.abs().max()), rtol=0)
    finest = lite0.feature_map(image)[:112]
    torch.testing.assert_close(finest, expected[0][0], atol=1e-4 * float(expected[0].abs().max()), rtol=0)


def test_cats_are_cats(full_model, lite0, voc_root):
    listed = (voc_root / "VOC2007/ImageSets/Main/cat_train.txt").read_text().split()
    cats = [name for name, flag in zip(listed[::2], listed[1::2], strict=True) if flag == "1"][:12]
    right = 0
    for name in cats:
        pixels = read_image(voc_root / f"VOC2007/JPEGImages/{name}.jpg")
        with torch.inference_mode():
            best = int(
                full_model(
                    lite0.normalise(cv2.resize(pixels, (224, 224), interpolation=cv2.INTER_AREA))
                ).argmax()
            )
        right += 281 <= best <= 287  # ImageNet's domestic cats, lynx and cougar
    assert right >= 8


def test_cells_lie_where_mirrored_images_agree(lite0, voc_root):
    """A cell at pixel p of an image and at the mirrored pixel of the mirrored image must see the same."""
    names = (voc_root / "VOC2007/ImageSets/Main/train.txt").read_text().split()
    wide = [
        pixels
        for pixels in (read_image(voc_root / f"VOC2007/JPEGImages/{name}.jpg") for name in names[:12])
        if pixels.shape[1] == 500
    ][:4]
    width, start, agreements = 416, 40, {}
    with torch.inference_mode():
        for pixels in wide:
            pixels = pixels[: pixels.shape[0] // 32 * 32]
            maps = lite0.layers(lite0.normalise(pixels[:, start : start + width]))
            for shift in (-17, -5, 3, 15, 31):
                crop = pixels[:, start + shift : start + shift + width][:, ::-1]
                for level, mirrored in zip(maps, lite0.layers(lite0.normalise(crop)), strict=True):
                    stride = width // level.shape[3]
                    # Cell i and cell n-1-i of the mirrored image lie at the same pixel if the offset is this.
                    offset = (shift + stride - 1) / 2
                    inner = slice(2, -2)
                    same = torch.cosine_similarity(
                        level[..., inner].flatten(), mirrored.flip(3)[..., inner].flatten(), dim=0
                    )
                    agreements.setdefault((stride, offset), []).append(float(same))
    mean = {key: np.mean(values) for key, values in agreements.items()}
    for level, wrong_offsets in zip(lite0.level_geometries, ((5.0, 15.0), (7.0, 31.0)), strict=True):
        for wrong in wrong_offsets:
            assert mean[level.stride, level.offset] > mean[level.stride, wrong] + 0.003, mean


@pytest.mark.parametrize("size", [(1, 1), (10, 20), (33, 64), (100, 97), (2000, 20)], ids=str)
def test_any_size_gives_the_cells_it_promises(lite0, size):
    result = lite0.feature_map(np.full((*size, 3), 90, np.uint8))
    assert result.shape == (432, *lite0.cells(*size))
    assert lite0.cells(*size) == (-(-size[0] // 16), -(-size[1] // 16))
    assert result.dtype == torch.float32
    assert result.is_contiguous()
    assert result.isfinite().all()


def test_padding_does_not_move_cells():
    """Without weights that see far, the map of a padded image is the map of the image, cell by cell."""
    network = build_network("efficientnet_lite0", "random", feature_levels=(4,))
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        inside = network(pixels)
        padded = network(torch.nn.functional.pad(pixels, (0, 37, 0, 6)))
    assert inside.shape == (1, 24, 16, 16)
    assert padded.shape == (1, 24, 18, 26)
    torch.testing.assert_close(padded[:, :, :13, :13], inside[:, :, :13, :13])


@pytest.mark.parametrize("size", [(64, 96), (60, 90)])
def test_layers_get_one_image_in_the_order_of_a_batch(lite0, size):
    """(64, 96) needs no padding, which would put it in order anyway."""
    batch = lite0.pad(lite0.normalise(np.zeros((*size, 3), np.uint8)))
    assert batch.stride() == torch.empty(1, 3, 64, 96, memory_format=torch.channels_last).stride()


def test_only_the_chosen_feature_levels_are_computed():
    network = build_network("efficientnet_lite0", "random", feature_levels=(16,))
    assert network.channels == 112
    assert network.geometry.stride == 16
    assert len(network.layers.blocks) == 5


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100", "densenet121"])
def test_folding_keeps_the_maps(name):
    layers = timm.create_model(name, features_only=True)
    for part in layers.modules():  # statistics other than 0 and 1, or folding would do nothing
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.running_mean, -1, 1)
            torch.nn.init.uniform_(part.running_var, 0.5, 2)
    layers.eval()
    folded = fold_batch_norms(layers)
    assert folded is not layers
    left = sum(isinstance(part, torch.nn.BatchNorm2d) for part in folded.modules())
    assert left < sum(isinstance(part, torch.nn.BatchNorm2d) for part in layers.modules())
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        for before, after in zip(layers(images), folded(images), strict=True):
            torch.testing.assert_close(after, before, atol=1e-4 * float(before.abs().max()), rtol=0)


@pytest.mark.parametrize("components", [None, 8], ids=["all", "pca"])
def test_made_again_from_json_and_tensors(lite0, image, components):
    network = copy.deepcopy(lite0)
    network.set_feature_levels(fit_feature_levels([network.level_maps(image)], components))
    assert network.channels == components or components is None
    config = json.loads(json.dumps(network.config()))
    state = {key: value.clone() for key, value in network.state_dict().items()}
    again = network_from_config(config, state)
    assert torch.equal(again.feature_map(image), network.feature_map(image))
    assert again.geometry == network.geometry
    assert weights_digest(again) == weights_digest(network) != weights_digest(lite0)
    assert all(value.is_contiguous() for value in state.values())  # as safetensors wants them


@pytest.fixture(scope="module", params=["resnet18", "efficientnet_lite2"])
def other_network(request):
    return build_network(request.param, "random")


@pytest.fixture(scope="module")
def made_again(other_network):
    """The network from its settings, through JSON, and copies of its tensors."""
    config = json.loads(json.dumps(other_network.config()))
    state = {key: value.clone() for key, value in other_network.state_dict().items()}
    return network_from_config(config, state)


@pytest.fixture(scope="module")
def differently_seeded(other_network):
    return build_network(other_network.name, "random", seed=1)


@pytest.mark.parametrize("size", [(45, 70), (96, 33)], ids=str)
def test_other_networks_of_timm(other_network, made_again, differently_seeded, size):
    channels = {"resnet18": 256 + 512, "efficientnet_lite2": 120 + 352}[other_network.name]
    cells = other_network.cells(*size)
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    feature_map = other_network.feature_map(pixels)
    assert cells == (-(-size[0] // 16), -(-size[1] // 16))
    assert feature_map.shape == (channels, *cells)
    assert feature_map.isfinite().all()
    assert feature_map.std() > 0
    assert other_network.multiple == 32
    assert torch.equal(made_again.feature_map(pixels), feature_map)
    assert (made_again.geometry, made_again.cells(*size)) == (other_network.geometry, cells)
    # Other random weights give another map, so it is the weights that were kept.
    assert not torch.equal(differently_seeded.feature_map(pixels), feature_map)


def test_damaged_settings_are_named(lite0):
    config, state = lite0.config(), dict(lite0.state_dict())
    with pytest.raises(InputError, match="damaged"):
        network_from_config({**config, "taps": [[0, 1.0, 3]]}, state)
    with pytest.raises(InputError, match="damaged"):
        network_from_config({**config, "taps": [[16]]}, state)
    with pytest.raises(InputError, match="damaged"):
        network_from_config({"name": "efficientnet_lite0"}, state)
    state.pop("taps.scales")
    with pytest.raises(InputError, match=r"taps\.scales"):
        network_from_config(config, state)


def test_feature_levels_of_other_channels_are_refused(lite0):
    with pytest.raises(ValueError, match="expected"):
        lite0.set_feature_levels(fit_feature_levels([[torch.ones(3, 2, 2)]]))


@pytest.mark.parametrize(
    ("name", "feature_levels", "message"),
    [
        ("efficientnet_lite9", None, "unknown network"),
        ("resnet18", (64,), "no map of stride 64"),
        ("alexnet", (16,), "cannot be chosen"),
        ("vit_tiny_patch16_224", None, "convolutional"),
    ],
    ids=["unknown", "stride", "chain", "attention"],
)
def test_networks_that_cannot_be_built(name, feature_levels, message):
    with pytest.raises(InputError, match=message):
        build_network(name, "random", feature_levels=feature_levels)
