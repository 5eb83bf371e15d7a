"""Geometry: the recurrence, the probe, sizes of maps, pixels that cells depend on."""

import pytest
import torch
from torch import nn

from sppnet.detection.backbones import Geometry, build_network, probe
from sppnet.detection.backbones.geometry import Layer, geometry_of, minimum_size, output_size

KNOWN = {
    "zf5": Geometry(16, 20.0, 139),  # reference.md §1.2
    "alexnet": Geometry(16, 15.0, 163),
    "vgg16": Geometry(16, 7.5, 196),
}


@pytest.fixture(scope="module", params=sorted(KNOWN))
def chain(request):
    return build_network(request.param, "random")


def test_geometry_is_the_known_one(chain):
    assert chain.geometry == KNOWN[chain.name]


def test_probe_measures_what_the_recurrence_derives(chain):
    assert probe(chain.layers) == [chain.geometry]


@pytest.mark.parametrize(
    ("name", "size", "cells"),
    [("zf5", 224, 13), ("zf5", 180, 10), ("alexnet", 224, 13), ("vgg16", 224, 14)],
)
def test_known_sizes(name, size, cells):
    network = build_network(name, "random")
    assert network.cells(size, size) == (cells, cells)
    assert network(torch.zeros(1, 3, size, size)).shape[2:] == (cells, cells)


def test_sizes_are_those_of_the_computed_map(chain):
    for height, width in [(1, 1), (chain.minimum, 33), (77, 64), (96, 131), (111, 95)]:
        assert chain(torch.zeros(1, 3, height, width)).shape[2:] == chain.cells(height, width)


def test_minimum_is_the_smallest_size_with_a_cell(chain):
    assert output_size(chain.layer_geometries, chain.minimum) == 1
    assert output_size(chain.layer_geometries, chain.minimum - 1) == 0


def test_recurrence_by_hand():
    # 3/2 with padding 1 is centred on 0. Then 2/2 lies between cells 0 and 1 (pixels 0 and 2), and sees
    # pixels -1 to 3.
    assert geometry_of([Layer(3, 2, 1), Layer(2, 2, 0)]) == Geometry(4, 1.0, 5)
    assert Geometry(16, 20.0, 139).centre(3) == 20 + 3 * 16


@pytest.mark.parametrize("ceil_mode", [False, True], ids=["floor", "ceil"])
def test_layer_sizes_equal_torch(ceil_mode):
    for kernel, stride, padding in [(3, 2, 0), (3, 2, 1), (2, 2, 0), (2, 3, 1)]:
        pool = nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil_mode)
        layer = Layer(kernel, stride, padding, ceil_mode)
        for size in range(kernel, 20):
            assert layer.output_size(size) == pool(torch.zeros(1, 1, size, size)).shape[2]


def test_minimum_size_of_one_layer():
    assert minimum_size([Layer(7, 2, 1)]) == 5


def test_a_real_cell_sees_exactly_its_receptive_field():
    network = build_network("alexnet", "random")
    image = torch.rand(1, 3, 400, 400, requires_grad=True)
    row, column = 11, 12
    (gradient,) = torch.autograd.grad(network(image)[0, :, row, column].sum(), image)
    half = (network.geometry.receptive_field - 1) // 2
    for axis, cell in ((0, row), (1, column)):
        seen = torch.nonzero(gradient.abs().sum(dim=(0, 1)).sum(dim=1 - axis)).flatten()
        centre = network.geometry.centre(cell)
        assert centre - half <= seen[0]
        assert seen[-1] <= centre + half
        assert seen[-1] - seen[0] > 0.8 * network.geometry.receptive_field


def test_probe_refuses_attention():
    class Attention(nn.Module):
        def forward(self, x):
            return (x * x.mean(dim=(2, 3), keepdim=True)).cumsum(dim=3)

    with pytest.raises(ValueError, match="attention"):
        probe(Attention())
