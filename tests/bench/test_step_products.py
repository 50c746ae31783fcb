"""Every product of a step is seen, forward and backward, and made again bare."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ctr_rec.bench.step_products import Products, bare, flops, shares


def test_products_of_a_linear_layer_forward_and_backward() -> None:
    layer, x = nn.Linear(3, 5), torch.randn(7, 3, requires_grad=True)
    with Products() as products:
        layer(x).sum().backward()
    assert sorted(products.shapes) == sorted([((7, 3), (3, 5)), ((5, 7), (7, 3)), ((7, 5), (5, 3))])
    assert flops(products.shapes) == 3 * 2 * 7 * 3 * 5


def test_batched_products_in_every_form_are_seen_and_replayed() -> None:
    a, b, out = torch.randn(2, 3, 4), torch.randn(2, 4, 5), torch.zeros(2, 3, 5)
    with Products() as products:
        torch.bmm(a, b, out=out)
        out.baddbmm_(a, b)
        torch.matmul(a[0], b[0])
    assert products.shapes == [((2, 3, 4), (2, 4, 5))] * 2 + [((3, 4), (4, 5))]
    with Products() as again:
        bare(products.shapes)()
    assert again.shapes == products.shapes


def test_shares_add_up_and_name_products() -> None:
    found = shares(lambda: torch.randn(200, 200) @ torch.randn(200, 200))
    assert sum(found.values()) == pytest.approx(1)
    assert found["matrix products"] > 0
