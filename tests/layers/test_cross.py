"""Cross layers against the formula, and the degree of what they can express."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ctr_rec.layers.cross import CrossLayer, CrossNet


def test_full_layer_is_the_formula() -> None:
    layer = CrossLayer(3).double()
    x0, x = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    inner = x @ layer.up.weight.t() + layer.up.bias
    torch.testing.assert_close(layer(x0, x), x + x0 * inner)


def test_low_rank_layer_is_the_formula() -> None:
    layer = CrossLayer(5, rank=2).double()
    assert isinstance(layer.down, nn.Linear)
    x0, x = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    w = layer.up.weight @ layer.down.weight
    torch.testing.assert_close(layer(x0, x), x + x0 * (x @ w.t() + layer.up.bias))


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_shape_and_flops(rows: int) -> None:
    assert CrossNet(4, layers=2)(torch.randn(rows, 4)).shape == (rows, 4)
    assert CrossNet(4, layers=2).flops(rows) == rows * 2 * (2 * 16 + 2 * 4)
    assert CrossNet(4, layers=3, rank=2).flops(rows) == rows * 3 * (2 * 2 * 8 + 2 * 4)


def test_degree_grows_by_one_per_layer() -> None:
    """Along a ray t * x the output is a polynomial of degree layers + 1, so its next finite difference vanishes."""
    net = CrossNet(3, layers=2).double()
    ray = torch.stack([t * torch.tensor([0.3, -1.0, 0.7], dtype=torch.float64) for t in range(5)])
    values = net(ray)
    assert values.diff(n=3, dim=0).abs().max() > 1e-6
    assert values.diff(n=4, dim=0).abs().max() < 1e-12
