"""What the DIN bench reads of a log."""

from __future__ import annotations

import pytest
import torch

from ctr_rec.bench.din_log import density, thin
from tests.bench.conftest import Prepared


def test_thinning_keeps_the_newest_events(prepared: Prepared) -> None:
    batch = prepared[2][0]
    thinned = thin(batch, 0.4)
    assert density([thinned]) == pytest.approx(0.4 * density([batch]), rel=0.05)
    for name, history in batch.histories.items():
        for n in range(0, batch.num_impressions, 7):
            kept = thinned.histories[name]
            mine = kept.values[kept.offsets[n] : kept.offsets[n + 1]]
            assert len(mine) == int(0.4 * float(history.lengths()[n]) + 0.5)
            end = int(history.offsets[n + 1])
            assert torch.equal(mine, history.values[end - len(mine) : end])


def test_only_items_and_profile_are_read(prepared: Prepared) -> None:
    run, spec, batches = prepared
    assert [f.name for f in spec.item] == ["film"]
    assert not spec.event
    assert not spec.counters
    channels = [channel.actions for channel in run.data.channels.values()]
    assert channels == [(0, 1, 2), (3, 4)]
    assert max(int(h.lengths().max()) for b in batches for h in b.histories.values()) <= 50
