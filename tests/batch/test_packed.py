"""Own positions among the stretches of several packed batches. The batches themselves: test_reader.py."""

from __future__ import annotations

import numpy as np
import pytest

from ctr_rec.batch.columns import offsets_of, ranges
from ctr_rec.batch.lot import per_row
from ctr_rec.batch.packed import Mine, among_pieces
from ctr_rec.batch.packing import Pieces
from ctr_rec.batch.pointwise import among


@pytest.mark.parametrize("seed", range(20))
def test_own_positions_are_found_in_later_stretches_of_their_batch_only(seed: int) -> None:
    random = np.random.default_rng(seed)
    begins = [np.sort(random.choice(200, 12, replace=False)) for _ in range(3)]  # three batches of six stretches
    start, end = np.concatenate([b[::2] for b in begins]), np.concatenate([b[1::2] for b in begins])
    count = random.integers(0, 9, 18)
    mine = Mine(Pieces(np.zeros(18, np.int64), start, end, count, count), np.arange(0, 19, 6), np.ones(3, bool))
    first = start.repeat(count)
    own = first + random.integers(0, 90, len(first))
    offsets = offsets_of(end - start)
    shift = offsets[:-1] - start - per_row(offsets[mine.bounds[:-1]], mine.bounds)
    found = among_pieces(mine, shift, own, shift.repeat(count))
    bounds = offsets_of(count)[mine.bounds]
    expected = [
        among(ranges(start[p : p + 6], (end - start)[p : p + 6]), own[bounds[b] : bounds[b + 1]])
        for b, p in enumerate((0, 6, 12))
    ]
    assert found.tolist() == np.concatenate(expected).tolist()
