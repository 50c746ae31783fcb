"""Own positions among the events of a pointwise batch. The batches themselves: test_reader.py."""

from __future__ import annotations

import numpy as np

from ctr_rec.batch.pointwise import among


def test_own_positions_among_events() -> None:
    events = np.array([2, 5, 9])
    assert among(events, np.array([5, 3, 9, 10, 2])).tolist() == [1, -1, 2, -1, 0]
    assert among(events[:0], np.array([5])).tolist() == [-1]
