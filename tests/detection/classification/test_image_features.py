"""The vector of an image: views, pyramid, fully connected layers, against slow references."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toy_network import toy_layers

from sppnet.common.errors import InputError
from sppnet.detection.backbones import FeatureLevels, Geometry, Network, build_network
from sppnet.detection.backbones.build import CHAINS
from sppnet.detection.backbones.normalisation import IMAGENET
from sppnet.detection.classification import image_features
from sppnet.detection.classification.classifier import Classifier, ClassifierSettings
from sppnet.detection.classification.image_features import (
    ImageFeatureExtractor,
    ImageFeatureSettings,
    take_view,
)


@pytest.fixture
def toy(monkeypatch):
    """Makes a network of 6 channels and stride 4 from a seed."""
    monkeypatch.setitem(CHAINS, "toy", (toy_layers, IMAGENET))
    return lambda seed=0: build_network("toy", "random", seed=seed)


@pytest.fixture
def toy_classifier(toy):
    """Makes a classifier with the toy network, which is in training mode."""

    def make(seed=0, levels=(3, 1), **values):
        return Classifier(
            ("ant", "bee"), ClassifierSettings("toy", levels, width=16, size=32, seed=seed, **values)
        )

    return make


@pytest.fixture
def image():
    rng = np.random.default_rng(0)
    return cv2.resize(rng.integers(0, 256, (12, 18, 3), np.uint8), (151, 98), interpolation=cv2.INTER_CUBIC)


def slowly_resized(image, height, width):
    """Resizes bilinearly, sample by sample; pixel centres map to pixel centres."""
    result = np.empty((height, width, 3))
    rows, columns = image.shape[:2]
    for y in range(height):
        for x in range(width):
            v = np.clip((y + 0.5) * rows / height - 0.5, 0, rows - 1)
            u = np.clip((x + 0.5) * columns / width - 0.5, 0, columns - 1)
            top, left = int(v), int(u)
            bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            upper = image[top, left] * (1 - u + left) + image[top, right] * (u - left)
            lower = image[bottom, left] * (1 - u + left) + image[bottom, right] * (u - left)
            result[y, x] = upper * (1 - v + top) + lower * (v - top)
    return result


def slow_view(image, view, scale):
    """Takes the paper's views, with sizes computed from the ratio of the sides."""
    height, width = image.shape[:2]
    if view == "warp":
        return slowly_resized(image, scale, scale)
    if height < width:
        size = scale, round(scale * width / height)
    else:
        size = round(scale * height / width), scale
    whole = slowly_resized(image, *size)
    if view == "full":
        return whole
    top, left = (size[0] - scale) // 2, (size[1] - scale) // 2
    return whole[top : top + scale, left : left + scale]


@pytest.mark.parametrize("view", ["crop", "full", "warp"])
@pytest.mark.parametrize("turned", [False, True], ids=["wide", "high"])
def test_views_are_the_slow_ones(image, view, turned):
    image = image[:49, :75]
    image = image.transpose(1, 0, 2) if turned else image
    for scale in (14, 56):  # shrunk and enlarged
        taken, expected = take_view(image, view, scale), slow_view(image, view, scale)
        assert taken.dtype == np.uint8
        # OpenCV interpolates with fixed-point weights.
        np.testing.assert_allclose(taken, expected, atol=1.5)


def test_sizes_of_views():
    image = np.zeros((375, 500, 3), np.uint8)
    assert take_view(image, "full", 224).shape == (224, 299, 3)
    assert take_view(image.transpose(1, 0, 2), "full", 392).shape == (523, 392, 3)
    for view in ("crop", "warp"):
        for scale in (1, 17, 224):
            assert take_view(image, view, scale).shape == (scale, scale, 3)


def test_a_crop_is_the_middle_of_the_resized_image():
    """Columns of an image that needs no resizing are numbered, so the crop shows its position."""
    columns = np.broadcast_to((np.arange(300) // 2).astype(np.uint8)[:, None], (224, 300, 3))
    np.testing.assert_array_equal(take_view(columns, "crop", 224), columns[:, 38:262])


def slow_pyramid(values, levels):
    """Computes the maxima of a map (C, h, w), bin by bin."""
    parts = []
    for level in levels:
        pooled = F.adaptive_max_pool2d(values[None], level)[0]
        parts += [pooled[:, row, column] for row in range(level) for column in range(level)]
    return torch.cat(parts).numpy()


def unit(vector):
    return vector / np.sqrt(np.square(vector, dtype=np.float64).sum())


@pytest.mark.parametrize("view", ["crop", "full", "warp"])
def test_the_conv_layer_is_a_pyramid_over_the_whole_map(toy, image, view):
    network = toy()
    settings = ImageFeatureSettings(view, (50,), levels=(6, 3, 2, 1))
    extractor = ImageFeatureExtractor(network, settings)
    vector = extractor(image)
    values = network.feature_map(take_view(image, view, 50))
    np.testing.assert_allclose(vector, unit(slow_pyramid(values, (6, 3, 2, 1))), atol=1e-6)
    assert vector.dtype == np.float32
    assert vector.shape == (extractor.length,) == (50 * 6,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)


def test_several_scales_are_averaged(toy, image):
    """All scales have equal weight, because vectors are normalised before they are averaged."""
    network = toy()
    scales = (32, 48, 90)
    each = [ImageFeatureExtractor(network, ImageFeatureSettings("full", (scale,)))(image) for scale in scales]
    together = ImageFeatureExtractor(network, ImageFeatureSettings("full", scales))(image)
    np.testing.assert_allclose(together, unit(sum(each)), atol=1e-6)
    assert np.linalg.norm(together) == pytest.approx(1, abs=1e-6)
    assert np.abs(together - each[0]).max() > 1e-3


def test_a_map_of_zeros_stays_zero(toy, image):
    network = toy()
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    vector = ImageFeatureExtractor(network, ImageFeatureSettings("warp", (32, 40)))(image)
    assert not vector.any()


@pytest.mark.parametrize("layer", ["conv", "fc6", "fc7"])
def test_layers_of_a_classifier(toy_classifier, image, layer):
    """The classifier uses its own levels, and no dropout, although it was in training mode."""
    classifier = toy_classifier()
    extractor = ImageFeatureExtractor(classifier, ImageFeatureSettings("full", (40,), layer))
    values = classifier.network.feature_map(take_view(image, "full", 40))
    expected = slow_pyramid(values, (3, 1))
    for name in {"conv": (), "fc6": ("fc6",), "fc7": ("fc6", "fc7")}[layer]:
        layer = getattr(classifier, name)
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        expected = np.maximum(weight @ expected + bias, 0)
    assert expected.any()
    vector = extractor(image)
    np.testing.assert_allclose(vector, unit(expected), atol=1e-5)
    assert vector.shape == (extractor.length,) == ((60,) if layer == "conv" else (16,))


def test_a_classifier_without_spp_takes_its_own_size_alone(toy_classifier, image):
    classifier = toy_classifier(levels=())
    for view in ("crop", "warp"):
        vector = ImageFeatureExtractor(classifier, ImageFeatureSettings(view, (32,)))(image)
        values = classifier.network.feature_map(take_view(image, view, 32))
        np.testing.assert_allclose(vector, unit(slow_pyramid(values, (6,))), atol=1e-6)
    for view, scale in (("full", 32), ("crop", 40)):
        with pytest.raises(InputError, match="takes 32 x 32"):
            ImageFeatureExtractor(classifier, ImageFeatureSettings(view, (scale,)))(image)


class TwoLevels(Network):
    """Maps of strides 4 and 8, the second with much larger values."""

    def __init__(self):
        feature_levels = FeatureLevels((5, 3))
        geometries = [Geometry(4, 1.5, 4), Geometry(8, 3.5, 8)]
        super().__init__("two", nn.ModuleList([nn.Conv2d(3, 5, 4, 4), nn.Conv2d(3, 3, 8, 8)]), IMAGENET,
                         geometries, feature_levels)  # fmt: skip
        self.multiple = 8
        nn.init.constant_(self.layers[1].bias, 50)
        self.layers.forward = lambda images: [layer(images) for layer in self.layers]

    def cells(self, height, width):
        return -(-height // 4), -(-width // 4)

    def config(self):
        return {"name": self.name}


@pytest.fixture
def files(image, tmp_path):
    paths = []
    for number, pixels in enumerate((image, image[:, ::-1], image[:60, 20:])):
        paths.append(tmp_path / f"{number}.png")
        cv2.imwrite(str(paths[-1]), pixels[:, :, ::-1])
    return paths


def test_several_maps_are_joined_by_constants_that_are_kept(image, files, tmp_path, monkeypatch):
    torch.manual_seed(0)
    network, settings = TwoLevels().eval(), ImageFeatureSettings("full", (32, 48))
    extractor = ImageFeatureExtractor(network, settings)
    unfitted = extractor.made_by()
    norms = [[], []]
    for pixels in (image, image[:, ::-1], image[:60, 20:]):
        for scale in (32, 48):
            for level, values in zip(
                norms, network.level_maps(take_view(pixels, "full", scale)), strict=True
            ):
                level.append(values.norm(dim=0).flatten())
    extractor.fit_feature_levels(files, tmp_path / "levels")
    expected = [1 / float(torch.cat(level).mean()) for level in norms]
    np.testing.assert_allclose(network.feature_levels.weights, expected, rtol=1e-5)
    assert expected[0] > 5 * expected[1]
    assert extractor.made_by() != unfitted

    # The network is restored to its state before.
    again = ImageFeatureExtractor(TwoLevels().eval(), settings)
    again.network.load_state_dict(network.state_dict() | {"taps.scales": torch.ones(2)})
    with monkeypatch.context() as patch:
        patch.delattr(image_features, "fit_feature_levels")
        again.fit_feature_levels(files, tmp_path / "levels")
    assert again.made_by() == extractor.made_by()
    np.testing.assert_array_equal(again(image), extractor(image))
    # For other images the constants are fitted again.
    again.network.set_feature_levels(FeatureLevels((5, 3)))
    again.fit_feature_levels(files[:1], tmp_path / "levels")
    assert again.made_by() != extractor.made_by()


def test_images_that_no_constants_can_be_fitted_on_are_named(files, tmp_path):
    cv2.imwrite(str(tmp_path / "strip.png"), np.zeros((2, 90, 3), np.uint8))
    (tmp_path / "broken.png").write_bytes(b"no image")
    extractor = ImageFeatureExtractor(TwoLevels().eval(), ImageFeatureSettings("full", (32,)))
    for name, why in (("strip.png", "over 16 times"), ("broken.png", "not an image")):
        with pytest.raises(InputError, match=f"{name}: .*{why}"):
            extractor.fit_feature_levels([*files, tmp_path / name], tmp_path / "levels")


def test_one_map_needs_no_constants(toy, tmp_path):
    extractor = ImageFeatureExtractor(toy(), ImageFeatureSettings())
    extractor.fit_feature_levels([tmp_path / "none.png"], tmp_path / "levels")
    assert not (tmp_path / "levels").exists()


def test_made_by_differs_for_other_settings_and_weights(toy, toy_classifier):
    settings = ImageFeatureSettings()
    extractors = [
        *(ImageFeatureExtractor(toy(seed), settings) for seed in range(2)),
        *(ImageFeatureExtractor(toy_classifier(seed), settings) for seed in range(2)),
        ImageFeatureExtractor(toy_classifier(levels=(2, 1)), settings),
        *(
            ImageFeatureExtractor(toy(), replace(settings, **change))
            for change in ({"view": "warp"}, {"scales": (224, 392)}, {"levels": (4, 1)})
        ),
        ImageFeatureExtractor(toy_classifier(), replace(settings, layer="fc6")),
    ]
    texts = [json.dumps(extractor.made_by()) for extractor in extractors]
    assert len(set(texts)) == len(texts)
    assert json.dumps(ImageFeatureExtractor(toy(), settings).made_by()) == texts[0]


def test_wrong_settings_and_images_are_named(toy, image):
    for values, message in (
        ({"view": "side"}, "view 'side': choose crop, full or warp"),
        ({"layer": "fc8"}, "layer 'fc8': choose conv, fc6 or fc7"),
        ({"scales": ()}, "at least one"),
        ({"scales": (224, 0)}, "at least 1 pixel"),
        ({"levels": ()}, "at least one"),
        ({"levels": (3, 0)}, "each at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            ImageFeatureSettings(**values)
    for layer in ("fc6", "fc7"):
        with pytest.raises(InputError, match=rf"layer {layer}: toy has convolutions only.*classifier"):
            ImageFeatureExtractor(toy(), ImageFeatureSettings(layer=layer))
    for view in ("crop", "full"):
        with pytest.raises(InputError, match="over 16 times as long as wide"):
            take_view(image[:9], view, 32)
    assert take_view(image[:9], "warp", 32).shape == (32, 32, 3)
