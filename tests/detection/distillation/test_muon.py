"""Muon, against its definition."""

import pytest
import torch
from torch import nn

from sppnet.detection.distillation.muon import Muon, orthonormal


@pytest.mark.parametrize("shape", [(5, 20), (20, 5), (8, 8)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    matrix[0] *= 3
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    assert values.max() > 2 * values.min()
    near = left.T @ orthonormal(matrix) @ right.T
    diagonal = near.diagonal()
    assert diagonal.min() > 0.6
    assert diagonal.max() < 1.3
    assert (near - diagonal.diag()).abs().max() < 1e-4


def test_a_zero_gradient_is_no_step():
    assert orthonormal(torch.zeros(3, 4)).abs().max() == 0


def test_a_step_by_hand():
    weight = nn.Parameter(torch.ones(2, 3, 1, 2))
    weight.grad = torch.randn(2, 3, 1, 2, generator=torch.Generator().manual_seed(1))
    moving = 0.05 * weight.grad
    nesterov = 0.05 * weight.grad + 0.95 * moving
    expected = torch.ones(2, 6) * (1 - 0.1 * 0.5) - 0.1 * 0.2 * 6**0.5 * orthonormal(nesterov.reshape(2, 6))
    Muon([weight], 0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach().reshape(2, 6), expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_layout_in_memory_makes_no_difference(layout):
    values, slope = torch.randn(2, 4, 3, 2, 2, generator=torch.Generator().manual_seed(2))
    weight = nn.Parameter(values.clone(memory_format=layout))
    weight.grad = slope.clone(memory_format=layout)
    Muon([weight], 0.1).step()
    contiguous = nn.Parameter(values.clone())
    contiguous.grad = slope.clone()
    Muon([contiguous], 0.1).step()
    torch.testing.assert_close(weight, contiguous)


def test_weights_without_a_gradient_stay():
    weight = nn.Parameter(torch.ones(2, 2))
    Muon([weight], 0.1).step()
    assert weight.tolist() == [[1, 1], [1, 1]]
