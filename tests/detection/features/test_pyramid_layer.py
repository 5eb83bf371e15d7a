"""The spatial pyramid as a torch module: equal values to the kernel, equal gradient to plain torch."""

import copy
import math

import numpy as np
import pytest
import torch

from sppnet.detection.features.pooling import PAPER_LEVELS, num_bins, spatial_pyramid_pool
from sppnet.detection.features.pyramid_layer import SpatialPyramidPooling

# With 7 bins over 29 or 57 cells, and 13 over 7, bin edges in floating point would be wrong.
LEVELS = [PAPER_LEVELS, (1,), (4, 2, 1), (1, 2, 3, 6), (7, 1), (13,), (2, 2)]


def make_map(channels, height, width, dtype=torch.float32, seed=0):
    """Makes a map of distinct values, so that each maximum lies in one cell."""
    count = channels * height * width
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return (order.reshape(channels, height, width) - count / 2).to(dtype) / count


def random_windows(count, height, width, seed=0):
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, (width, height), (2, count, 2))
    return torch.from_numpy(np.hstack([corners.min(axis=0), corners.max(axis=0) + 1]))


def kernel_pool(feature_map, windows, levels):
    channels_last = np.ascontiguousarray(feature_map.permute(1, 2, 0).numpy())
    return torch.from_numpy(spatial_pyramid_pool(channels_last, windows.numpy().astype(np.int32), levels))


def plain_pool(feature_map, windows, levels):
    """Pools bin by bin with torch's maximum, which autograd differentiates."""
    vectors = []
    for left, top, right, bottom in windows.tolist():
        window = feature_map[:, top:bottom, left:right]
        height, width = window.shape[1:]
        bins = [
            window[
                :,
                math.floor(row * height / n) : math.ceil((row + 1) * height / n),
                math.floor(column * width / n) : math.ceil((column + 1) * width / n),
            ].amax(dim=(1, 2))
            for n in levels
            for row in range(n)
            for column in range(n)
        ]
        vectors.append(torch.cat(bins))
    return torch.stack(vectors)


@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("channels", [1, 5])
def test_windows_equal_the_kernel(levels, channels):
    feature_map, windows = make_map(channels, 60, 64), random_windows(40, 60, 64)
    pooled = SpatialPyramidPooling(levels)(feature_map, windows)
    assert pooled.shape == (40, num_bins(levels) * channels)
    assert pooled.dtype == torch.float32
    assert torch.equal(pooled, kernel_pool(feature_map, windows, levels))


@pytest.mark.parametrize("levels", [PAPER_LEVELS, (7, 11)], ids=str)
def test_every_window_size_equals_the_kernel(levels):
    feature_map = make_map(2, 62, 62)
    windows = torch.tensor(
        [[1, 1, 1 + side, 61] for side in range(1, 61)] + [[0, 1, 62, 1 + side] for side in range(1, 61)]
    )
    pooled = SpatialPyramidPooling(levels)(feature_map, windows)
    assert torch.equal(pooled, kernel_pool(feature_map, windows, levels))


@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (2, 7), (13, 13), (29, 57)], ids=str)
def test_whole_maps_equal_the_kernel(levels, size):
    maps = torch.stack([make_map(4, *size, seed=seed) for seed in range(3)])
    pyramid = SpatialPyramidPooling(levels)
    window = torch.tensor([[0, 0, size[1], size[0]]])
    expected = torch.cat([kernel_pool(feature_map, window, levels) for feature_map in maps])
    assert torch.equal(pyramid(maps), expected)
    assert torch.equal(pyramid(maps[0]), expected[:1])
    assert torch.equal(pyramid(maps[0], window), expected[:1])


def test_known_answer():
    feature_map = torch.arange(16.0).reshape(1, 4, 4)
    windows = torch.tensor([[0, 0, 4, 4], [1, 1, 4, 3]])
    pyramid = SpatialPyramidPooling((2, 1))
    expected = [[5, 7, 13, 15, 15], [6, 7, 10, 11, 11]]
    assert pyramid(feature_map, windows).tolist() == expected
    assert pyramid(feature_map[None], windows).tolist() == expected
    assert pyramid(feature_map).tolist() == expected[:1]
    assert pyramid.length(3) == 15


@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_gradient_equals_plain_torch(levels):
    """Bins of small windows overlap, so their gradients add up in a cell."""
    windows = torch.cat([random_windows(12, 20, 23), torch.tensor([[3, 4, 5, 6], [0, 0, 23, 20]])])
    weights = torch.randn(len(windows), num_bins(levels) * 3, generator=torch.Generator().manual_seed(1))
    gradients = []
    for pool in (SpatialPyramidPooling(levels), lambda *arguments: plain_pool(*arguments, levels)):
        feature_map = make_map(3, 20, 23).requires_grad_()
        (pool(feature_map, windows) * weights).sum().backward()
        gradients.append(feature_map.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-5)
    assert gradients[0].abs().sum() > 0


@pytest.mark.parametrize("levels", [PAPER_LEVELS, (7,)], ids=str)
def test_gradcheck(levels):
    pyramid = SpatialPyramidPooling(levels)
    feature_map = (100 * make_map(2, 5, 6, torch.float64)).requires_grad_()
    windows = random_windows(4, 5, 6)
    assert torch.autograd.gradcheck(lambda values: pyramid(values, windows), (feature_map,))
    maps = torch.stack([100 * make_map(2, 5, 6, torch.float64, seed) for seed in (1, 2)]).requires_grad_()
    assert torch.autograd.gradcheck(pyramid, (maps,))


def test_a_network_learns_through_it():
    torch.manual_seed(0)
    convolution, pyramid = torch.nn.Conv2d(3, 4, 3), SpatialPyramidPooling((2, 1))
    network = torch.nn.Sequential(convolution, pyramid, torch.nn.Linear(pyramid.length(4), 2))
    network(torch.rand(2, 3, 9, 11)).sum().backward()
    assert convolution.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_types(dtype):
    """A maximum is one of the values, so it is exact in every floating-point type."""
    feature_map, windows = make_map(2, 40, 300).to(dtype), random_windows(30, 40, 300)
    pyramid = SpatialPyramidPooling()
    pooled = pyramid(feature_map, windows)
    assert pooled.dtype == dtype
    assert torch.equal(pooled, plain_pool(feature_map, windows, PAPER_LEVELS))
    assert torch.equal(
        pyramid(feature_map), plain_pool(feature_map, torch.tensor([[0, 0, 300, 40]]), PAPER_LEVELS)
    )


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64], ids=str)
def test_windows_of_any_integer_type(dtype):
    feature_map, windows = make_map(2, 20, 30), random_windows(10, 20, 30)
    pyramid = SpatialPyramidPooling()
    assert torch.equal(pyramid(feature_map, windows.to(dtype)), pyramid(feature_map, windows))


def test_no_windows_and_no_maps():
    pyramid = SpatialPyramidPooling()
    assert pyramid(make_map(3, 4, 5), torch.zeros((0, 4), dtype=torch.int64)).shape == (0, 150)
    assert pyramid(torch.zeros(0, 3, 4, 5)).shape == (0, 150)


def test_memory_order_does_not_matter():
    feature_map, windows = make_map(3, 12, 14), random_windows(10, 12, 14)
    transposed = feature_map.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    pyramid = SpatialPyramidPooling()
    assert torch.equal(pyramid(transposed, windows), pyramid(feature_map, windows))
    assert torch.equal(pyramid(transposed), pyramid(feature_map))


def test_no_weights_and_copies():
    pyramid = SpatialPyramidPooling([3, 1])
    assert not list(pyramid.parameters())
    assert not pyramid.state_dict()
    assert repr(pyramid) == "SpatialPyramidPooling(levels=(3, 1))"
    feature_map = make_map(2, 6, 6)
    assert torch.equal(copy.deepcopy(pyramid)(feature_map), pyramid(feature_map))


@pytest.mark.parametrize("levels", [(), (0,), (3, -1)])
def test_bad_levels(levels):
    with pytest.raises(ValueError, match="levels"):
        SpatialPyramidPooling(levels)


@pytest.mark.parametrize(
    "window",
    [(-1, 0, 2, 2), (0, -1, 2, 2), (0, 0, 6, 2), (0, 0, 2, 5), (2, 2, 2, 3), (2, 2, 3, 2), (3, 1, 2, 2)],
    ids=["left", "top", "right", "bottom", "no_width", "no_height", "inverted"],
)
def test_windows_outside_or_empty(window):
    with pytest.raises(ValueError, match="inside the 5 x 4 map"):
        SpatialPyramidPooling()(make_map(2, 4, 5), torch.tensor([(0, 0, 1, 1), window]))


@pytest.mark.parametrize(
    ("shape", "windows", "message"),
    [
        ((5, 6), None, r"\(5, 6\); give float"),
        ((1, 2, 3, 5, 6), None, "give float"),
        ((2, 3, 5, 6), torch.zeros((1, 4), dtype=torch.int64), "of one feature map; there are 2"),
        ((3, 5, 6), torch.zeros((1, 5), dtype=torch.int64), r"\(1, 5\); give int"),
        ((3, 5, 6), torch.zeros(4, dtype=torch.int64), r"\(4,\); give int"),
        ((3, 5, 6), torch.tensor([[0.0, 0.0, 1.5, 2.0]]), "float32.*give int"),
    ],
    ids=["map-2d", "map-5d", "two-maps", "five-columns", "one-window", "pixels"],
)
def test_other_shapes(shape, windows, message):
    with pytest.raises(ValueError, match=message):
        SpatialPyramidPooling()(torch.rand(shape), windows)


def test_integer_maps_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        SpatialPyramidPooling()(torch.zeros(3, 5, 6, dtype=torch.uint8))
