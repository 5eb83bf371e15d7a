"""Views from maps against views from crops, averaging, and errors."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from toy_network import toy_layers

from sppnet.common.errors import InputError
from sppnet.data import read_image
from sppnet.detection.backbones import Geometry
from sppnet.detection.backbones.build import CHAINS
from sppnet.detection.backbones.normalisation import IMAGENET
from sppnet.detection.classification.classifier import Classifier, ClassifierSettings
from sppnet.detection.classification.view_testing import (
    ViewTester,
    compare_sources,
    pooled_from_crops,
    pooled_from_maps,
    view_windows,
)
from sppnet.detection.classification.views import VIEW_NAMES, ViewSettings, make_views, resize

ABC = ("ant", "bee", "cat")
# All sides and positions of views of an image of 96 x 144 are multiples of 4 at these scales.
TOY_VIEWS = ViewSettings(32, 48, (32, 48, 64))


@pytest.fixture
def toy(monkeypatch):
    """Gives a function that makes toy classifiers from a seed."""
    monkeypatch.setitem(CHAINS, "toy", (toy_layers, IMAGENET))

    def make(seed=0, classes=ABC, **values):
        classifier = Classifier(classes, ClassifierSettings("toy", width=16, size=32, seed=seed, **values))
        # The last layer's random weights are small, which would make all scores nearly equal.
        nn.init.normal_(classifier.fc8.weight, generator=torch.Generator().manual_seed(seed))
        return classifier

    return make


@pytest.fixture
def image():
    rng = np.random.default_rng(0)
    return cv2.resize(rng.integers(0, 256, (12, 18, 3), np.uint8), (144, 96), interpolation=cv2.INTER_CUBIC)


def slowly(classifier, image, name, settings):
    """Computes the mean softmax of the whole classifier over all views that are cut out, with duplicates."""
    scores = []
    for views in make_views(name, *image.shape[:2], settings):
        resized = resize(image, views.height, views.width)
        for (left, top, right, bottom), flipped in zip(views.boxes.astype(int), views.flipped, strict=True):
            crop = resized[top:bottom, left:right]
            crop = crop[:, ::-1] if flipped else crop
            with torch.inference_mode():
                logits = classifier(classifier.network.normalise(crop))
            scores.append(logits.softmax(dim=1)[0].numpy())
    return np.mean(scores, axis=0)


@pytest.mark.parametrize("source", ["maps", "crops"])
@pytest.mark.parametrize("name", VIEW_NAMES)
def test_where_no_cell_sees_beyond_its_view_both_are_the_slow_twin(toy, image, name, source):
    classifier = toy().eval()
    expected = slowly(classifier, image, name, TOY_VIEWS)
    assert expected.max() - expected.min() > 0.05
    scores = ViewTester([classifier], name, TOY_VIEWS, source).scores(image)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert scores.dtype == np.float32


def test_coinciding_views_of_a_square_image_keep_their_weight(toy, image):
    """Weights are 3 + 3 views at scale 32 and 18 at 48; without duplicates they would be 1 + 1 and 18."""
    square, settings = image[:, :96], ViewSettings(32, 48, (32, 48))
    classifier = toy().eval()
    expected = slowly(classifier, square, "multi", settings)
    for source in ("maps", "crops"):
        scores = ViewTester([classifier], "multi", settings, source).scores(square)
        np.testing.assert_allclose(scores, expected, atol=1e-6)
    views = make_views("multi", 96, 96, settings)
    for pooled_views in (pooled_from_maps, pooled_from_crops):
        vectors, counts = pooled_views(classifier, resize(square, 32, 32), views[0])
        assert len(vectors) == 2
        np.testing.assert_array_equal(counts, [3, 3])


def test_views_differ(toy, image):
    scores = [ViewTester([toy()], name, TOY_VIEWS).scores(image) for name in VIEW_NAMES]
    assert len(np.unique(np.round(scores, 4), axis=0)) == len(VIEW_NAMES)


def test_an_image_and_its_mirror_image_score_alike_over_mirrored_views(toy, image):
    """The toy's 4 x 4 filters are not symmetric, so flipping the map instead of the image would fail."""
    tester = ViewTester([toy()], "multi+full", TOY_VIEWS)
    np.testing.assert_allclose(tester.scores(image), tester.scores(image[:, ::-1]), atol=1e-6)
    centre = ViewTester([toy()], "centre", TOY_VIEWS)
    assert np.abs(centre.scores(image) - centre.scores(image[:, ::-1])).max() > 1e-3


def test_the_full_image_is_the_whole_map(weights_dir, image):
    """Maps and crops agree closely for cells that see across borders, and sizes that no stride divides."""
    settings = ClassifierSettings("alexnet", levels=(3, 1), width=8)
    classifier = Classifier(ABC, settings, weights_dir / "alexnet-conv.safetensors").eval()
    for width in (144, 137, 101):
        expected = slowly(classifier, image[:, :width], "full", ViewSettings(90, 90, (90,)))
        scores = ViewTester([classifier], "full", ViewSettings(90, 90, (90,))).scores(image[:, :width])
        np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_sides_on_the_border_take_the_maps():
    """Of cells centred on pixels 0, 8, …, 56 the projection omits those on the first and last pixel."""
    boxes = np.array([[0, 0, 57, 32], [8, 0, 40, 32]], np.float32)
    windows = view_windows(boxes, (40, 57), Geometry(8, 0.0, 8), (5, 8))
    np.testing.assert_array_equal(windows, [[0, 0, 8, 4], [2, 0, 5, 4]])


def test_models_are_averaged(toy, image):
    each = [ViewTester([toy(seed)], "ten", TOY_VIEWS).scores(image) for seed in range(3)]
    together = ViewTester([toy(seed) for seed in range(3)], "ten", TOY_VIEWS).scores(image)
    np.testing.assert_allclose(together, np.mean(each, axis=0), atol=1e-6)
    assert together.sum() == pytest.approx(1)


def test_each_model_sees_views_of_its_own_size(toy, image):
    small, large = toy(0), toy(1)
    large.settings = replace(large.settings, size=64)
    expected = [
        ViewTester([classifier], "ten", ViewSettings.proportional(size)).scores(image)
        for classifier, size in ((small, 32), (large, 64))
    ]
    np.testing.assert_allclose(
        ViewTester([small, large], "ten").scores(image), np.mean(expected, axis=0), atol=1e-6
    )


def test_dropout_is_off(toy, image):
    classifier = toy()
    assert classifier.training
    tester = ViewTester([classifier], "ten", TOY_VIEWS)
    np.testing.assert_array_equal(tester.scores(image), tester.scores(image))


def test_without_a_pyramid(toy, image):
    plain = toy(levels=())
    expected = slowly(plain.eval(), image, "multi", TOY_VIEWS)
    scores = ViewTester([plain], "multi", TOY_VIEWS, "crops").scores(image)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    for views, source in (("ten", "maps"), ("full", "crops"), ("multi+full", "crops")):
        with pytest.raises(InputError, match=r"toy without a pyramid.*from crops"):
            ViewTester([toy(), plain], views, TOY_VIEWS, source)
    with pytest.raises(InputError, match="takes 32 x 32"):
        ViewTester([plain], "ten", ViewSettings(48, 48, (48,)), "crops")


def test_what_cannot_be_averaged_or_chosen(toy):
    with pytest.raises(InputError, match=r"ant, bee, cat.*ant, cat, bee.*same order"):
        ViewTester([toy(), toy(classes=("ant", "cat", "bee"))])
    with pytest.raises(InputError, match="source 'thin air': choose maps or crops"):
        ViewTester([toy()], source="thin air")
    with pytest.raises(InputError, match="centre, ten, full"):
        ViewTester([toy()], "eleven")


def test_many_files(toy, image, tmp_path):
    tester = ViewTester([toy()], "ten", TOY_VIEWS)
    files = [tmp_path / name for name in ("a.png", "broken.png", "strip.png", "gone.png", "b.png")]
    for file, pixels in ((files[0], image), (files[2], image[:2]), (files[4], image[:, ::-1])):
        cv2.imwrite(str(file), pixels[:, :, ::-1])
    files[1].write_bytes(b"no image")
    results = dict(tester.scores_of_files(files, workers=2))
    assert list(results) == files
    for file, pixels in ((files[0], image), (files[4], image[:, ::-1])):
        np.testing.assert_allclose(results[file], tester.scores(pixels), atol=1e-6)
    for file, why in zip(files[1:4], ("not an image", "over 16 times", "cannot be read"), strict=True):
        assert isinstance(results[file], InputError)
        assert str(results[file]).startswith(f"{file}: ")
        assert why in str(results[file])


def test_agreement(toy, image):
    tester = ViewTester([toy()], "ten", TOY_VIEWS)
    same = compare_sources(tester, [image, image[:, ::-1], image[:80, :120]])
    assert same.images == 3
    assert same.top1 == 1
    assert same.difference < 1e-6
    assert same.correlation == pytest.approx(1)
    # These views lie between the cells of the map.
    shifted = compare_sources(ViewTester([toy()], "ten", ViewSettings(30, 35, (30,))), [image])
    assert shifted.difference > 1e-5


def test_seconds_of_both_sources(toy, image):
    """Both ways score the first image twice; the first time does not count."""
    clock = iter([0, 2, 10, 15, 20, 23, 30, 38])
    result = compare_sources(ViewTester([toy()], "centre", TOY_VIEWS), [image, image], lambda: next(clock))
    assert (result.seconds_maps, result.seconds_crops) == (2 + 3, 5 + 8)


def test_real_maps_and_crops_agree(weights_dir, voc_root):
    """With AlexNet on photographs, both vectors of a view correlate more than vectors of different views."""
    settings = ClassifierSettings("alexnet", width=8)
    classifier = Classifier(ABC, settings, weights_dir / "alexnet-conv.safetensors").eval()
    files = sorted((voc_root / "VOC2007" / "JPEGImages").glob("*.jpg"))[:2]
    for file in files:
        image = read_image(file)
        (views,) = make_views("ten", *image.shape[:2])
        resized = resize(image, views.height, views.width)
        with torch.inference_mode():
            (maps, _), (crops, _) = (
                pooled_views(classifier, resized, replace(views, flipped=np.zeros(10, bool)))
                for pooled_views in (pooled_from_maps, pooled_from_crops)
            )
        correlation = np.corrcoef(maps.numpy(), crops.numpy())[:5, 5:]
        assert correlation.diagonal().min() > 0.8
        assert (correlation.argmax(axis=1) == np.arange(5)).all()
