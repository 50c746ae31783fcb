"""Tokens of several sequences side by side, and their mean, against loops over impressions."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ctr_rec.layers.behaviours import Sequences
from ctr_rec.layers.token_inputs import Behaviours
from ctr_rec.layers.token_rows import mean_behaviour, per_impression, ranges_of, side_by_side

SHARED = Sequences(torch.tensor([4, 5, 9, 7]), torch.tensor([0, 3, 3, 4]), torch.tensor([2, 0, 1, 0, 2]))
OWN = Sequences(torch.tensor([8, 2, 3, 6]), torch.tensor([0, 1, 1, 1, 4, 4]))


def _rows(sequences: Sequences, n: int) -> list[int]:
    segment = n if sequences.segment_N is None else int(sequences.segment_N[n])
    return list(range(*sequences.offsets_S1[segment : segment + 2].tolist()))


def _tokens(sequences: Sequences) -> Tensor:
    return torch.randn(len(sequences.position_P), 3, dtype=torch.float64, requires_grad=True)


def test_each_impression_has_its_own_copy() -> None:
    parts = [Behaviours(_tokens(of), of) for of in (SHARED, OWN, SHARED)]
    joined = per_impression(parts, 5)
    assert joined.sequences.segment_N is None
    bounds = list(pairwise(joined.sequences.offsets_S1.tolist()))
    assert len(bounds) == 5
    for n, (low, high) in enumerate(bounds):
        expected = torch.cat([part.x_PD[_rows(part.sequences, n)] for part in parts])
        assert torch.equal(joined.x_PD[low:high], expected)
        positions = [int(part.sequences.position_P[row]) for part in parts for row in _rows(part.sequences, n)]
        assert joined.sequences.position_P[low:high].tolist() == positions
    joined.x_PD.sum().backward()
    reads = [sum(row in _rows(SHARED, n) for n in range(5)) for row in range(4)]
    assert parts[0].x_PD.grad is not None
    assert parts[0].x_PD.grad[:, 0].tolist() == reads


def test_nothing_side_by_side() -> None:
    nobody = Sequences(torch.empty(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    row_P, sequences = side_by_side([nobody, nobody], 0)
    assert (len(row_P), sequences.offsets_S1.tolist()) == (0, [0])
    nothing = Sequences(nobody.position_P, torch.zeros(4, dtype=torch.int64))
    assert side_by_side([nothing], 3)[1].offsets_S1.tolist() == [0, 0, 0, 0]


def test_mean_of_what_is_read() -> None:
    for of in (SHARED, OWN):
        behaviours = Behaviours(_tokens(of), of)
        got = mean_behaviour(behaviours)
        for n in range(5):
            rows = behaviours.x_PD[_rows(of, n)]
            expected = rows.mean(0) if len(rows) else torch.zeros(3, dtype=torch.float64)
            torch.testing.assert_close(got[n], expected, rtol=0, atol=1e-15)


def test_ranges_are_whole_sequences() -> None:
    ranges = ranges_of(SHARED, torch.tensor([0, 0, 1, 2]))
    assert (ranges.lo.tolist(), ranges.hi.tolist()) == ([0, 0, 3, 3], [3, 3, 3, 4])
    ranges.plan.check()
    assert ranges.plan.num_keys == 4
