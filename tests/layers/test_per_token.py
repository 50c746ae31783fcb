"""Layers with weights per token against a loop over the tokens, in values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from ctr_rec.layers.per_token import PerTokenLinear, PerTokenSwiGLU, SwiGLU

NAMES = ("film", "hour", "age")


@pytest.mark.parametrize("rows", [0, 1, 5])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_equals_one_matrix_after_the_other(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer = PerTokenLinear(NAMES, 4, 6, bias).double()
    if layer.bias_LE is not None:
        nn.init.normal_(layer.bias_LE)
    x_NLD = torch.randn(rows, 3, 4, dtype=torch.float64, requires_grad=True)
    got = layer(x_NLD)
    parts = [x_NLD[:, t] @ layer.weight_LDE[t] for t in range(3)]
    if layer.bias_LE is not None:
        parts = [part + layer.bias_LE[t] for t, part in enumerate(parts)]
    want = torch.stack(parts, dim=1)
    torch.testing.assert_close(got, want)
    inputs = [x_NLD, *layer.parameters()]
    scale = torch.randn_like(want)
    for mine, theirs in zip(
        torch.autograd.grad((got * scale).sum(), inputs), torch.autograd.grad((want * scale).sum(), inputs), strict=True
    ):
        torch.testing.assert_close(mine, theirs)
    assert layer.flops(rows) == 2 * rows * 3 * 4 * 6


def test_swiglu_of_each_token_is_the_shared_one_with_its_weights() -> None:
    torch.manual_seed(0)
    layer = PerTokenSwiGLU(NAMES, 4, 5)
    x_NLD = torch.randn(7, 3, 4)
    got = layer(x_NLD)
    for token in range(3):
        shared = SwiGLU(4, 5)
        shared.gate_and_up.weight.data = layer.gate_and_up.weight_LDE[token].T
        shared.out.weight.data = layer.out.weight_LDE[token].T
        torch.testing.assert_close(got[:, token], shared(x_NLD[:, token]))
    assert layer.flops(7) == 3 * shared.flops(7) == 3 * 2 * 7 * 3 * 4 * 5


def test_swiglu_is_its_formula() -> None:
    torch.manual_seed(1)
    layer = SwiGLU(3, 4)
    x = torch.randn(6, 3)
    gate, up = layer.gate_and_up.weight[:4], layer.gate_and_up.weight[4:]
    torch.testing.assert_close(layer(x), (functional.silu(x @ gate.T) * (x @ up.T)) @ layer.out.weight.T)


def test_rows_of_the_weights_are_named_by_their_tokens() -> None:
    tokens = (("film", 1), ("hour", 1), ("age", 1))
    assert PerTokenLinear(NAMES, 4, 6, True).axes() == {"weight_LDE": (tokens, None, None), "bias_LE": (tokens, None)}
    assert set(PerTokenSwiGLU(NAMES, 4, 6).axes()) == {"gate_and_up.weight_LDE", "out.weight_LDE"}
