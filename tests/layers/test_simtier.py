"""SimTier against the formula of MUSE's code, pair by pair."""

from __future__ import annotations

import math

import torch

from ctr_rec.layers.simtier import TIERS, SimTier, tier_counts


def test_equals_a_loop_over_pairs() -> None:
    torch.manual_seed(0)
    lengths = [4, 0, 1, 9]
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    r_P = torch.rand(sum(lengths), dtype=torch.float64) * 2 - 1
    r_P[1] = -torch.inf
    tier = SimTier().double()
    out = tier(r_P, offsets)
    assert out.shape == (4, TIERS) == (4, 22)
    for n in range(4):
        counts = [0] * 22
        for r in r_P[offsets[n] : offsets[n + 1]].tolist():
            if r > -math.inf:
                counts[math.ceil(r / 0.1) + 10] += 1
        expected = [math.log(count + 1) * weight for count, weight in zip(counts, tier.weight_T.tolist(), strict=True)]
        assert torch.allclose(out[n], torch.tensor(expected, dtype=torch.float64))
    out.sum().backward()
    assert tier.weight_T.grad is not None


def test_edges_of_tiers() -> None:
    r_P = torch.tensor([-1.0, -0.95, -0.1, 0.0, 0.05, 0.1, 1.0, 1.0001, -1.0001])
    counts = tier_counts(r_P, torch.tensor([0, 9]))
    # ceil(r / 0.1) + 10, kept inside 0 to 21.
    assert counts.nonzero()[:, 1].tolist() == [0, 1, 9, 10, 11, 20, 21]
    assert counts[0, 0] == 2
    assert counts[0, 11] == 2


def test_weights_begin_between_0_and_1() -> None:
    torch.manual_seed(0)
    weight = SimTier().weight_T.detach()
    assert 0 <= float(weight.min()) < float(weight.max()) < 1
    assert tier_counts(torch.zeros(0), torch.tensor([0])).shape == (0, TIERS)
