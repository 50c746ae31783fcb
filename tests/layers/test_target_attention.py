"""DIN's unit against the textbook formula, pair by pair, in output and in every gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ctr_rec.layers.target_attention import AttentionActivation, Normalize, TargetAttention, TargetAttentionSettings

OFFSETS = [0, 3, 3, 4, 9]
N, T, D = 4, 6, 5


def _inputs() -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Tensor]]:
    position = torch.tensor([0, 1, 2, 2, 5, 4, 3, 0, 0])
    codes = {"age": torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 1]), "order": torch.tensor([2, 1, 0, 0, 4, 3, 2, 1, 0])}
    target, event = torch.randn(N, D, dtype=torch.float64), torch.randn(T, D, dtype=torch.float64)
    return target.requires_grad_(), event.requires_grad_(), position, torch.tensor(OFFSETS), codes


def _textbook(unit: TargetAttention, inputs: tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Tensor]]) -> Tensor:
    target, event, position, _, codes = inputs
    settings = unit.settings
    activate = torch.relu if settings.activation is AttentionActivation.RELU else torch.nn.functional.silu
    rows = []
    for n in range(N):
        scores, values = [], []
        for p in range(OFFSETS[n], OFFSETS[n + 1]):
            t, h = target[n], event[position[p]]
            x = unit.first(torch.cat([t, h, t - h, t * h])) + sum(unit.codes[c][codes[c][p]] for c in unit.codes)
            x = activate(x)
            for layer in unit.hidden:
                x = activate(layer(x))
            scores.append(unit.out(x))
            values.append(h)
        if not scores:
            rows.append(torch.zeros(D, dtype=torch.float64))
            continue
        a = torch.stack(scores)
        rows.append(((a.softmax(0) if settings.normalize is Normalize.SOFTMAX else a) * torch.stack(values)).sum(0))
    return torch.stack(rows)


@pytest.mark.parametrize("hidden", [(7,), (6, 4), (6, 4, 3)])
@pytest.mark.parametrize("activation", list(AttentionActivation))
@pytest.mark.parametrize("normalize", list(Normalize))
@pytest.mark.parametrize("codes", [{}, {"age": 3, "order": 5}], ids=["plain", "codes"])
def test_equals_the_textbook(
    hidden: tuple[int, ...], activation: AttentionActivation, normalize: Normalize, codes: dict[str, int]
) -> None:
    settings = TargetAttentionSettings(hidden=hidden, activation=activation, normalize=normalize)
    unit = TargetAttention(D, settings, codes).double()
    for table in unit.codes.values():
        torch.nn.init.normal_(table)
    inputs = _inputs()
    got, expected = unit(*inputs), _textbook(unit, inputs)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    weights = torch.randn_like(got)
    leaves = [inputs[0], inputs[1], *unit.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad((got * weights).sum(), leaves),
        torch.autograd.grad((expected * weights).sum(), leaves, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(ours, torch.zeros_like(ours) if theirs is None else theirs, rtol=0, atol=1e-11)


def test_codes_start_without_effect() -> None:
    torch.manual_seed(3)
    plain = TargetAttention(D, TargetAttentionSettings(hidden=(6, 4)), {}).double()
    torch.manual_seed(3)
    coded = TargetAttention(D, TargetAttentionSettings(hidden=(6, 4)), {"age": 3, "order": 5}).double()
    inputs = _inputs()
    torch.testing.assert_close(plain(*inputs), coded(*inputs), rtol=0, atol=0)


def test_no_pairs() -> None:
    unit = TargetAttention(D, TargetAttentionSettings(hidden=(6,)), {"age": 3})
    none = torch.zeros(0, dtype=torch.int64)
    out = unit(torch.randn(2, D), torch.zeros(0, D), none, torch.zeros(3, dtype=torch.int64), {"age": none})
    assert torch.equal(out, torch.zeros(2, D))
    out.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in unit.parameters())


def test_flops() -> None:
    unit = TargetAttention(D, TargetAttentionSettings(hidden=(6, 4)), {})
    assert unit.flops(2, 3, 7) == 2 * (5 * D * 6 + 7 * (D * 6 + 6 * 4 + 4 + D))
