"""Joining feature levels: alignment by pixels, equal norms, PCA, names in files."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sppnet.detection.backbones import FeatureLevels, Geometry, fit_feature_levels
from sppnet.detection.backbones.feature_levels import align


def slow_align(level, geometry, target, size):
    channels, height, width = level.shape
    result = np.zeros((channels, *size))
    for i in range(size[0]):
        for j in range(size[1]):
            y = (target.centre(i) - geometry.offset) / geometry.stride
            x = (target.centre(j) - geometry.offset) / geometry.stride
            for a in range(height):
                for b in range(width):
                    near = max(0, 1 - abs(np.clip(y, 0, height - 1) - a)) * max(
                        0, 1 - abs(np.clip(x, 0, width - 1) - b)
                    )
                    result[:, i, j] += near * level[:, a, b]
    return result


def batched(levels):
    return [level[None] for level in levels]


@pytest.mark.parametrize("offsets", [(15.0, 31.0), (9.0, 17.0), (7.5, 15.5), (0.0, 0.0)], ids=str)
def test_align_equals_the_slow_one(offsets):
    coarse = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fine, wide = Geometry(16, offsets[0], 1), Geometry(32, offsets[1], 1)
    fast = align(coarse[None], wide, fine, (8, 9))[0].numpy()
    np.testing.assert_allclose(fast, slow_align(coarse.numpy(), wide, fine, (8, 9)), atol=1e-12)


def test_align_keeps_a_ramp_of_pixels():
    wide, fine = Geometry(32, 17.0, 1), Geometry(16, 9.0, 1)
    ramp = torch.tensor([wide.centre(cell) for cell in range(6)]).expand(1, 1, 6, 6)
    inside = align(ramp, wide, fine, (12, 12))[0, 0, 0, 1:-1]
    assert inside.tolist() == [fine.centre(cell) for cell in range(1, 11)]


def test_align_of_tiles_is_interpolate():
    coarse = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(align(coarse, Geometry(32, 15.5, 1), Geometry(16, 7.5, 1), (6, 8)), expected)


@pytest.fixture
def training_maps():
    random = torch.Generator().manual_seed(0)
    return [
        [torch.randn(3, 5, 4 + k, generator=random) * 7 + 1, torch.randn(2, 5, 4 + k, generator=random)]
        for k in range(4)
    ]


def test_unfitted_levels_are_joined_unchanged(training_maps):
    maps = batched(training_maps[0])
    assert torch.equal(FeatureLevels((3, 2))(maps), torch.cat(maps, dim=1))


def test_fitted_levels_have_norm_one_on_average(training_maps):
    feature_levels = fit_feature_levels(training_maps)
    joined = [feature_levels(batched(maps))[0].flatten(1) for maps in training_maps]
    for channels in (slice(0, 3), slice(3, 5)):
        norms = torch.cat([cells[channels].norm(dim=0) for cells in joined])
        assert float(norms.mean()) == pytest.approx(1, abs=1e-6)


def test_pca_equals_svd_of_all_cells(training_maps):
    feature_levels = fit_feature_levels(training_maps, components=2)
    weights = feature_levels.channel_weights()[:, None]
    weighted = torch.cat(
        [torch.cat([level.flatten(1) for level in maps]) * weights for maps in training_maps], dim=1
    )
    centred = weighted - weighted.mean(dim=1, keepdim=True)
    left = torch.linalg.svd(centred.double()).U[:, :2]
    fitted = feature_levels.pca_components.double()
    np.testing.assert_allclose((fitted @ left).abs().numpy(), np.eye(2), atol=1e-6)
    joined = feature_levels(batched(training_maps[0]))[0].flatten(1)
    cells = training_maps[0][0].shape[1] * training_maps[0][0].shape[2]
    torch.testing.assert_close(joined, (fitted @ centred[:, :cells].double()).float(), atol=1e-5, rtol=1e-5)
    assert feature_levels.channels == 2


def test_all_components_keep_distances(training_maps):
    plain, rotated = fit_feature_levels(training_maps), fit_feature_levels(training_maps, components=5)
    maps = batched(training_maps[1])
    a, b = plain(maps)[0].flatten(1), rotated(maps)[0].flatten(1)
    torch.testing.assert_close(torch.cdist(a.T, a.T), torch.cdist(b.T, b.T), atol=1e-4, rtol=1e-4)


def test_a_dead_level_stays_zero():
    feature_levels = fit_feature_levels([[torch.zeros(2, 3, 3), torch.ones(1, 3, 3)]])
    assert feature_levels.weights.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("components", [None, 2], ids=["all", "pca"])
def test_names_in_files(training_maps, components):
    """Constants stored by earlier versions have these names."""
    feature_levels = fit_feature_levels(training_maps, components)
    state = feature_levels.state_dict()
    assert list(state) == ["scales"] + ["pca_mean", "pca_components"] * (components is not None)
    assert torch.equal(state["scales"], feature_levels.weights)
    again = FeatureLevels((3, 2), components)
    again.load_state_dict(state)
    assert torch.equal(again.weights, feature_levels.weights)
    maps = batched(training_maps[2])
    assert torch.equal(again(maps), feature_levels(maps))


def test_bad_training_maps_are_named():
    with pytest.raises(ValueError, match="no training maps"):
        fit_feature_levels([])
    with pytest.raises(ValueError, match="not finite"):
        fit_feature_levels([[torch.full((1, 2, 2), float("nan"))]])
    with pytest.raises(ValueError, match="6 principal components of 5"):
        FeatureLevels((3, 2), components=6)
