"""Features of teachers at a student's cells, and their standardisation."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sppnet.common.errors import InputError
from sppnet.detection.backbones import Geometry
from sppnet.detection.distillation.crops import View
from sppnet.detection.distillation.standard import Standard
from sppnet.detection.distillation.teachers import Labels, Teacher, values_at_pixels
from sppnet.detection.features.feature_map import FeatureMap


def ramp_map(width: int, height: int, factor: tuple[float, float], geometry: Geometry) -> FeatureMap:
    """Makes a map whose two channels are the centre of each cell on the original image (continuous x, y)."""
    x = (geometry.centre(0) + geometry.stride * np.arange(width) + 0.5) / factor[0]
    y = (geometry.centre(0) + geometry.stride * np.arange(height) + 0.5) / factor[1]
    return FeatureMap(np.stack(np.meshgrid(x, y), axis=2).astype(np.float32), factor)


@pytest.mark.parametrize("mirrored", [False, True])
def test_features_are_those_where_the_students_cells_are_centred(mirrored):
    student, teacher = Geometry(16, 20.0, 139), Geometry(8, 3.5, 50)
    student_factor, teacher_factor = (2.0, 1.9), (1.5, 1.6)
    view = View(0, left=37, top=11, side=224, mirrored=mirrored)
    columns, rows = view.pixels(student, 13)
    feature_map = ramp_map(60, 50, teacher_factor, teacher)
    values = values_at_pixels(feature_map, teacher, student_factor, columns, rows)
    for row in range(13):
        for column in range(13):
            pixel = student.centre(column)
            across = 223 - pixel if mirrored else pixel
            x = (37 + across + 0.5) / student_factor[0]
            y = (11 + student.centre(row) + 0.5) / student_factor[1]
            np.testing.assert_allclose(values[row, column], [x, y], rtol=1e-4)


def test_cells_of_a_mirrored_view_are_centred_on_the_pixels_of_the_crop():
    image = np.arange(300 * 400 * 3, dtype=np.int64).reshape(300, 400, 3)
    view = View(0, left=30, top=20, side=200, mirrored=True)
    columns, rows = view.pixels(Geometry(16, 20.0, 139), 10)
    crop = view.cut(image)
    for cell, (column, row) in enumerate(zip(columns.astype(int), rows.astype(int), strict=True)):
        pixel = 20 + 16 * cell
        np.testing.assert_array_equal(crop[pixel, pixel], image[row, column])


def test_beyond_the_map_features_are_those_of_the_last_cell():
    geometry = Geometry(16, 15.0, 100)
    feature_map = ramp_map(4, 3, (1.0, 1.0), geometry)
    columns, rows = np.array([-50.0, 900.0], np.float32), np.array([-9.0], np.float32)
    values = values_at_pixels(feature_map, geometry, (1.0, 1.0), columns, rows)
    np.testing.assert_allclose(values[0, :, 0], [15.5, 63.5])


def fitted(maps, **options):
    standard = Standard(maps[0].shape[2])
    standard.fit(maps, **options)
    return standard


def test_channels_are_brought_to_mean_0_and_variance_1():
    rng = np.random.default_rng(0)
    maps = [rng.normal([3, -1, 0], [2, 0.5, 4], (9, 7, 3)).astype(np.float32) for _ in range(20)]
    values = fitted(maps)(torch.from_numpy(np.concatenate([cells.reshape(-1, 3) for cells in maps])))
    np.testing.assert_allclose(values.mean(dim=0), 0, atol=1e-5)
    np.testing.assert_allclose(values.std(dim=0), 1, atol=0.06)


def test_a_dead_channel_is_not_blown_up():
    maps = [np.dstack([np.random.default_rng(0).normal(size=(8, 8)), np.full((8, 8), 5)]).astype(np.float32)]
    assert abs(float(fitted(maps)(torch.tensor([0.0, 5.0]))[1])) < 1e-3


def test_of_channels_taken_alike_a_rare_one_counts_for_no_more():
    maps = np.zeros((1, 10, 10, 3), np.float32)
    maps[0, :5, :, 0] = 1
    maps[0, 0, 0, 1] = 1
    values = fitted(list(maps), alike=True)(torch.from_numpy(maps))
    np.testing.assert_allclose(values.mean(dim=(0, 1, 2)), 0, atol=1e-6)
    height = values.amax(dim=(0, 1, 2)) - values.amin(dim=(0, 1, 2))
    assert height[0] == pytest.approx(height[1])
    assert values.var(dim=(0, 1, 2), correction=0).mean() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("text", ["zf5=random 576", "zf5=random a b", "zf5=random 0 5"])
def test_a_teacher_needs_a_short_side_for_each_scale(text, tmp_path):
    with pytest.raises(InputError, match="a short side in pixels for each of 2 scales"):
        Teacher(text, 2, tmp_path, 0)


def test_labels_are_of_the_smallest_box_around_a_pixel():
    example = SimpleNamespace(
        boxes=np.array([[2, 2, 4, 4], [0, 0, 8, 4]], np.float32), labels=np.array([2, 0])
    )
    # The image is stretched to twice the width and three times the height, so its pixels 1, 5, 17 lie at
    # x = 0.75, 2.75, 8.75.
    columns, rows = np.array([1, 5, 17], np.float32), np.array([2, 8], np.float32)
    values = Labels(3).values_at(example, 0, (2, 3), columns, rows)
    assert values.shape == (2, 3, 3)
    assert values.dtype == np.float32
    one_hot = {0: [1, 0, 0], 2: [0, 0, 1], None: [0, 0, 0]}
    # The rows lie at y = 0.83 and 2.83.
    expected = [[one_hot[0], one_hot[0], one_hot[None]], [one_hot[0], one_hot[2], one_hot[None]]]
    assert values.tolist() == expected
