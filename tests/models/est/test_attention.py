"""LCA over jagged behaviours equals padded attention in values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ctr_rec.layers.behaviours import Sequences
from ctr_rec.models.est.attention import LCA, pairs_of
from ctr_rec.models.est.kind import Kind

NAMES = ("a", "b", "c")
WIDTH = 6


def _sequences(lengths: list[int], segment: list[int] | None = None) -> Sequences:
    offsets = torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)
    return Sequences(
        torch.arange(sum(lengths)), offsets, None if segment is None else torch.tensor(segment, dtype=torch.int64)
    )


LENGTHS = {
    "odd": ([5, 0, 1], [0, 0, 2, 1], [2, 0, 1, 0]),
    "nothing retrieved": ([1, 7], [1, 1, 0, 1], [0, 0, 0, 0]),
    "nothing at all": ([0], [0, 0, 0, 0], [0, 0, 0, 0]),
    "no impression": ([], [], []),
}


def _padded(x_PD: Tensor, of: Sequences, num_impressions: int, longest: int) -> tuple[Tensor, Tensor]:
    """[N, longest, D] and which places are real."""
    rows, real = [], []
    for n in range(num_impressions):
        s = n if of.segment_N is None else int(of.segment_N[n])
        part = x_PD[of.offsets_S1[s] : of.offsets_S1[s + 1]]
        rows.append(functional.pad(part, (0, 0, 0, longest - len(part))))
        real.append(torch.arange(longest) < len(part))
    return torch.stack(rows), torch.stack(real)


def _attend(q: Tensor, k: Tensor, v: Tensor, real: Tensor, heads: int) -> Tensor:
    """Masked attention over padded keys: q [N, L, D], k and v [N, K, D]."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    score = (q @ k.transpose(-1, -2)) * (WIDTH // heads) ** -0.5
    weight = score.masked_fill(~real[:, None, None], -torch.inf).softmax(-1).nan_to_num(0.0)
    return (weight @ v).transpose(1, 2).flatten(2)


def _compare(got: list[Tensor], expected: list[Tensor], inputs: list[Tensor]) -> None:
    """Values, and the gradient of every input and parameter."""
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    weights = [torch.randn_like(x) for x in got]

    def grads(outputs: list[Tensor]) -> tuple[Tensor | None, ...]:
        total = sum((x * w).sum() for x, w in zip(outputs, weights, strict=True))
        assert isinstance(total, Tensor)
        return torch.autograd.grad(total, inputs, allow_unused=True)

    for a, b in zip(grads(got), grads(expected), strict=True):
        a, b = (torch.zeros(()) if x is None else x for x in (a, b))
        torch.testing.assert_close(a, b.expand_as(a), rtol=0, atol=1e-11, check_dtype=False)


@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("heads", [1, 2])
def test_lca_equals_padded_attention(name: str, heads: int) -> None:
    torch.manual_seed(0)
    recent, segment, retrieved = LENGTHS[name]
    sequences = [_sequences(recent, segment), _sequences(retrieved)]
    lca = LCA(NAMES, WIDTH, heads, "auto").double()
    n_NLD = torch.randn(len(segment), 3, WIDTH, dtype=torch.float64, requires_grad=True)
    behaviours = [torch.randn(len(of.position_P), WIDTH, dtype=torch.float64, requires_grad=True) for of in sequences]
    got = lca(n_NLD, behaviours, [Kind(of, None) for of in sequences])
    assert got.shape == n_NLD.shape
    if not segment:
        return
    q_NLD = torch.einsum("nld,lde->nle", n_NLD, lca.query.weight_LDE)
    parts = [_padded(x, of, len(segment), 7) for x, of in zip(behaviours, sequences, strict=True)]
    x_NKD, real = torch.cat([x for x, _ in parts], 1), torch.cat([r for _, r in parts], 1)
    k, v = (x_NKD @ lca.key_value.weight.T).chunk(2, dim=-1)
    expected = torch.einsum("nld,lde->nle", _attend(q_NLD, k, v, real, heads), lca.out.weight_LDE)
    _compare([got], [expected], [n_NLD, *behaviours, *lca.parameters()])


def _counted(make: Callable[[], nn.Module]) -> int:
    return sum(p.numel() for p in make().parameters())


def test_parameters_are_the_formulas() -> None:
    square = WIDTH * WIDTH
    assert _counted(lambda: LCA(NAMES, WIDTH, 1, "auto")) == (2 * 3 + 2) * square
    assert LCA(NAMES, WIDTH, 1, "auto").axes()["query.weight_LDE"][0] == (("a", 1), ("b", 1), ("c", 1))


def test_pairs_and_flops_of_no_impression() -> None:
    nobody = _sequences([], [])
    assert pairs_of(nobody, 0) == 0
    assert pairs_of(_sequences([2, 3], [1, 1, 0]), 3) == 8
    assert pairs_of(_sequences([2, 3]), 2) == 5
    assert LCA(NAMES, WIDTH, 1, "auto").flops(0, [Kind(nobody, None)]) == 0
