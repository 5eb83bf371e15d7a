"""Views of landscape, portrait and square images, with boxes computed by hand."""

from collections import Counter

import numpy as np
import pytest

from sppnet.common.errors import InputError
from sppnet.detection.classification.views import VIEW_NAMES, ViewSettings, make_views, resize, resized_size

# Short side 256: 500 x 375 becomes 341 x 256.
LANDSCAPE, PORTRAIT, SQUARE = (375, 500), (500, 375), (300, 300)


def listed(views):
    """Returns (left, top, right, bottom, flipped) of each view."""
    return [(*map(int, box), bool(flip)) for box, flip in zip(views.boxes, views.flipped, strict=True)]


def both(boxes):
    return [(*box, False) for box in boxes] + [(*box, True) for box in boxes]


def test_centre():
    (views,) = make_views("centre", *LANDSCAPE)
    assert (views.height, views.width) == (256, 341)
    # (341 - 224) / 2 = 58.5, (256 - 224) / 2 = 16
    assert listed(views) == [(58, 16, 282, 240, False)]
    (views,) = make_views("centre", *PORTRAIT)
    assert listed(views) == [(16, 58, 240, 282, False)]
    assert views.boxes.dtype == np.float32


def test_ten():
    (views,) = make_views("ten", *LANDSCAPE)
    boxes = [
        (58, 16, 282, 240),
        (0, 0, 224, 224),
        (117, 0, 341, 224),
        (0, 32, 224, 256),
        (117, 32, 341, 256),
    ]
    assert listed(views) == both(boxes)


@pytest.mark.parametrize(("size", "box"), [(LANDSCAPE, (0, 0, 341, 256)), (PORTRAIT, (0, 0, 256, 341))])
def test_full(size, box):
    (views,) = make_views("full", *size)
    assert listed(views) == [(*box, False)]


def test_multi_at_the_smallest_scale():
    # 500 x 375 with short side 224: 299 x 224; (299 - 224) / 2 = 37.5
    row = [(37, 0, 261, 224), (0, 0, 224, 224), (75, 0, 299, 224)]
    assert listed(make_views("multi", *LANDSCAPE)[0]) == both(row)
    column = [(0, 37, 224, 261), (0, 0, 224, 224), (0, 75, 224, 299)]
    assert listed(make_views("multi", *PORTRAIT)[0]) == both(column)


def test_multi_at_a_larger_scale():
    views = make_views("multi", *LANDSCAPE)[2]
    assert (views.height, views.width) == (300, 400)
    lefts, tops = (0, 88, 176), (0, 38, 76)
    grid = {(x, y, x + 224, y + 224, flip) for x in lefts for y in tops for flip in (False, True)}
    assert set(listed(views)) == grid
    assert len(views) == 18


@pytest.mark.parametrize("size", [LANDSCAPE, PORTRAIT, SQUARE])
def test_96_views_and_two_full_ones(size):
    views = make_views("multi", *size)
    assert [len(at_scale) for at_scale in views] == [6, 18, 18, 18, 18, 18]
    assert [min(at_scale.height, at_scale.width) for at_scale in views] == [224, 256, 300, 360, 448, 560]
    full = make_views("multi+full", *size)
    assert [len(at_scale) for at_scale in full] == [6, 20, 18, 18, 18, 18]
    whole = (0, 0, full[1].width, full[1].height)
    assert listed(full[1])[18:] == [(*whole, False), (*whole, True)]


def test_the_six_views_of_a_square_image_are_two():
    counts = Counter(listed(make_views("multi", *SQUARE)[0]))
    assert counts == {(0, 0, 224, 224, False): 3, (0, 0, 224, 224, True): 3}


def test_a_full_image_at_a_scale_of_its_own():
    views = make_views("multi+full", *SQUARE, ViewSettings(10, 13, (10, 20)))
    assert [len(at_scale) for at_scale in views] == [6, 18, 2]
    assert listed(views[2]) == [(0, 0, 13, 13, False), (0, 0, 13, 13, True)]


@pytest.mark.parametrize("name", VIEW_NAMES)
@pytest.mark.parametrize("size", [LANDSCAPE, PORTRAIT, SQUARE, (1, 16), (7, 5)])
def test_views_lie_in_the_image_and_mirrored_boxes_hold_the_mirrored_pixels(name, size):
    settings = ViewSettings.proportional(28)
    for views in make_views(name, *size, settings):
        pixels = np.random.default_rng(0).integers(0, 256, (views.height, views.width))
        for box, mirrored in zip(views.boxes.astype(int), views.mirrored_boxes.astype(int), strict=True):
            assert 0 <= box[0] < box[2] <= views.width
            assert 0 <= box[1] < box[3] <= views.height
            cut = pixels[box[1] : box[3], box[0] : box[2]]
            cut_of_mirrored = pixels[:, ::-1][mirrored[1] : mirrored[3], mirrored[0] : mirrored[2]]
            np.testing.assert_array_equal(cut[:, ::-1], cut_of_mirrored)
            assert "full" in name or cut.shape == (28, 28)


def test_proportional_scales():
    assert ViewSettings.proportional(224) == ViewSettings()
    assert ViewSettings.proportional(112) == ViewSettings(112, 128, (112, 128, 150, 180, 224, 280))


def test_bad_settings_and_images():
    for arguments in ((0,), (224, 200), (224, 256, (128, 256)), (224, 256, ())):
        with pytest.raises(InputError, match="view size"):
            ViewSettings(*arguments)
    with pytest.raises(InputError, match="centre, ten, full"):
        make_views("all", *SQUARE)
    assert resized_size(100, 1600, 224) == (224, 3584)
    with pytest.raises(InputError, match="1601x100 pixels: over 16 times"):
        make_views("centre", 100, 1601)


def test_resize():
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    assert resize(image, 4, 6) is image
    assert resize(image, 8, 12).shape == (8, 12, 3)
