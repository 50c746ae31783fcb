"""Dense stack: shapes, empty batches, layer order, operation count."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ctr_rec.layers.mlp import MLP, Activation, MLPSettings


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_shape(rows: int) -> None:
    mlp = MLP(7, MLPSettings(hidden=(6, 3)))
    assert mlp(torch.randn(rows, 7)).shape == (rows, mlp.out_width) == (rows, 3)
    assert mlp.flops(rows) == rows * 2 * (7 * 6 + 6 * 3)


def test_equals_its_definition() -> None:
    mlp = MLP(4, MLPSettings(hidden=(3,), activation=Activation.TANH, layer_norm=True)).eval()
    linear, norm = mlp.layers[0], mlp.layers[1]
    assert isinstance(linear, nn.Linear)
    x = torch.randn(5, 4)
    torch.testing.assert_close(mlp(x), torch.tanh(norm(linear(x))))


@pytest.mark.parametrize("activation", list(Activation))
def test_activations(activation: Activation) -> None:
    x = torch.linspace(-2, 2, 7)
    expected = {"relu": torch.relu, "silu": nn.functional.silu, "gelu": nn.functional.gelu, "tanh": torch.tanh}
    assert torch.equal(activation.module()(x), expected[activation.value](x))


def test_dropout_only_in_training() -> None:
    mlp = MLP(4, MLPSettings(hidden=(64,), dropout=0.5))
    x = torch.randn(3, 4)
    assert not torch.equal(mlp(x), mlp(x))
    mlp.eval()
    assert torch.equal(mlp(x), mlp(x))


def test_rows_do_not_meet() -> None:
    """No statistics over the batch: a row's output is that of the row alone."""
    mlp = MLP(4, MLPSettings(hidden=(8, 3), layer_norm=True, dropout=0.0)).double()
    x = torch.randn(6, 4, dtype=torch.float64)
    torch.testing.assert_close(mlp(x)[2:3], mlp(x[2:3]), rtol=0, atol=1e-14)
