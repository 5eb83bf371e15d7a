"""SPP-net's extractor: image to maps to pooled vectors."""

from dataclasses import replace

import numpy as np
import pytest

from sppnet.common.errors import InputError
from sppnet.detection.backbones import build_network
from sppnet.detection.features.extractor import SPPExtractor, resize_to_scales
from sppnet.detection.features.feature_map import FeatureMap
from sppnet.detection.features.pooling import spatial_pyramid_pool
from sppnet.detection.features.projection import choose_scale, project
from sppnet.detection.features.settings import FeatureSettings


@pytest.fixture(scope="module")
def network():
    return build_network("zf5", "random")


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


BOXES = np.array(
    [
        [0, 0, 160, 120],
        [10, 10, 70, 60],
        [11, 10, 70, 60],
        [100, 50, 160, 120],
        [0, 0, 5, 5],
        [10, 10, 70, 60],
    ],
    np.float32,
)


@pytest.mark.parametrize("scales", [(100,), (64, 128)], ids=["one_scale", "two_scales"])
def test_maps(network, scales):
    extractor = SPPExtractor(network, FeatureSettings(scales=scales))
    maps = extractor.prepare(noise(120, 160))
    assert len(maps) == len(scales)
    for scale, feature_map in zip(scales, maps, strict=True):
        width = round(160 * scale / 120)
        assert feature_map.values.shape == (*network.cells(scale, width), 256)
        assert feature_map.values.dtype == np.float32
        assert feature_map.values.flags.c_contiguous
        assert feature_map.factor == (width / 160, scale / 120)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (300, 1), (20, 10_000)])
def test_images_of_any_shape(network, height, width):
    extractor = SPPExtractor(network, FeatureSettings(scales=(64,), max_long_side=300))
    (feature_map,) = extractor.prepare(noise(height, width))
    boxes = np.array([[0, 0, width, height]], np.float32)
    pooled = extractor.extract([feature_map], boxes)
    assert pooled.features.shape == (1, 12_800)
    assert np.isfinite(pooled.features).all()
    size = network.cells(
        *(
            max(1, round(side * min(64 / min(height, width), 300 / max(height, width))))
            for side in (height, width)
        )
    )
    assert feature_map.values.shape[:2] == size


@pytest.mark.parametrize("scales", [(100,), (64, 128, 250)], ids=["one_scale", "three_scales"])
def test_pooled_together_is_pooled_alone(network, scales):
    extractor = SPPExtractor(network, FeatureSettings(scales=scales))
    maps = extractor.prepare(noise(120, 160))
    pooled = extractor.extract(maps, BOXES)
    assert pooled.rows.dtype == np.int64
    assert pooled.rows.shape == (len(BOXES),)
    assert pooled.features.shape[1] == extractor.length == 50 * 256
    for row, box in zip(pooled.rows, BOXES, strict=True):
        alone = extractor.extract(maps, box[None])
        np.testing.assert_array_equal(pooled.features[row], alone.features[0])


def test_regions_with_equal_windows_share_a_row(network):
    extractor = SPPExtractor(network, FeatureSettings(scales=(100,)))
    maps = extractor.prepare(noise(120, 160))
    rows = extractor.extract(maps, BOXES).rows
    windows = project(BOXES, maps[0].factor, network.geometry, maps[0].values.shape[:2])
    for i in range(len(BOXES)):
        for j in range(len(BOXES)):
            assert (rows[i] == rows[j]) == np.array_equal(windows[i], windows[j])
    assert rows[1] == rows[5]
    assert len(set(rows.tolist())) < len(BOXES)


@pytest.mark.parametrize("rule", ["paper", "released"])
def test_each_region_is_pooled_from_its_scale(network, rule):
    settings = FeatureSettings(scales=(64, 128, 250), scale_rule=rule, projection=rule, levels=(3, 1))
    extractor = SPPExtractor(network, settings)
    maps = extractor.prepare(noise(120, 160))
    # The short side is resized exactly here, and the long side up to half a pixel.
    factors = np.array([scale / 120 for scale in settings.scales], np.float32)
    chosen = choose_scale(BOXES, factors, rule)
    assert len(set(chosen.tolist())) > 1
    pooled = extractor.extract(maps, BOXES)
    for row, box, scale in zip(pooled.rows, BOXES, chosen, strict=True):
        values, factor = maps[scale].values, maps[scale].factor
        window = project(box[None], factor, network.geometry, values.shape[:2], rule)
        np.testing.assert_array_equal(pooled.features[row], spatial_pyramid_pool(values, window, (3, 1))[0])


def test_equal_windows_at_two_scales_are_two_rows(network):
    extractor = SPPExtractor(network, FeatureSettings(scales=(64, 250)))
    values = np.zeros((4, 4, 256), np.float32)
    maps = [FeatureMap(values, (0.5, 0.5)), FeatureMap(values + 1, (2.0, 2.0))]
    # The large and the small box both have their middle in cell (0, 0).
    boxes = np.array([[0, 0, 400, 400], [0, 0, 2, 2]], np.float32)
    pooled = extractor.extract(maps, boxes)
    assert [pooled.features[row].max() for row in pooled.rows] == [0, 1]


def test_no_regions(network):
    extractor = SPPExtractor(network, FeatureSettings(scales=(64, 100)))
    pooled = extractor.extract(extractor.prepare(noise(60, 60)), np.zeros((0, 4), np.float32))
    assert pooled.features.shape == (0, extractor.length)
    assert pooled.rows.shape == (0,)


def test_a_vector_depends_on_the_region_and_not_on_pixels_far_from_it(network):
    extractor = SPPExtractor(network, FeatureSettings(scales=(96,), max_long_side=2000))
    image = noise(96, 420)
    box = np.array([[10, 10, 90, 90]], np.float32)

    def features(changed):
        return extractor.extract(extractor.prepare(changed), box).features

    inside, far = image.copy(), image.copy()
    inside[40:60, 40:60] = 255 - inside[40:60, 40:60]
    # Cells are centred on pixel 89 at most, and see 139 / 2 pixels further.
    far[:, 170:] = 255 - far[:, 170:]
    np.testing.assert_allclose(features(far), features(image), rtol=1e-4, atol=1e-4)
    assert np.abs(features(inside) - features(image)).max() > 0.01 * np.abs(features(image)).max()


def test_a_mark_is_seen_where_it_is(network):
    """The cell that changes most when a spot changes projects back onto the spot."""
    extractor = SPPExtractor(network, FeatureSettings(scales=(200,)))
    image = np.full((200, 300, 3), 128, np.uint8)
    marked = image.copy()
    marked[96:112, 192:208] = 255
    change = np.abs(extractor.prepare(marked)[0].values - extractor.prepare(image)[0].values).sum(axis=2)
    rows, columns = np.indices(change.shape)
    centre = [float((index * change).sum() / change.sum()) for index in (columns, rows)]
    pixel = [network.geometry.offset + network.geometry.stride * cell for cell in centre]
    np.testing.assert_allclose(pixel, (200, 104), atol=network.geometry.stride / 2)


def test_resized_as_opencv_does_without_antialiasing():
    image = np.zeros((100, 100, 3), np.uint8)
    image[::2] = 200
    ((scaled, factor),) = resize_to_scales(image, FeatureSettings(scales=(50,)))
    assert scaled.shape == (50, 50, 3)
    assert factor == (0.5, 0.5)
    # The value lies halfway between two rows, so bilinear interpolation gives their mean.
    assert (scaled == 100).all()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"scales": ()}, "scales"),
        ({"scales": (0,)}, "scales"),
        ({"scales": (600, 3000)}, "scales"),
        ({"levels": ()}, "levels"),
        ({"levels": (3, 0)}, "levels"),
        ({"projection": "unknown"}, "projection"),
        ({"scale_rule": "unknown"}, "scale_rule"),
    ],
)
def test_bad_settings(values, named):
    with pytest.raises(InputError, match=named):
        replace(FeatureSettings(), **values)


def test_bfloat16_differs_by_rounding_only(network):
    image = noise(120, 160)
    exact, rounded = (
        SPPExtractor(network, FeatureSettings(scales=(100,), bfloat16=bfloat16)).prepare(image)[0].values
        for bfloat16 in (False, True)
    )
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() < 0.05 * exact.max()
