"""Copies of histories hold what an impression sees, newest last."""

from __future__ import annotations

from dataclasses import replace

import torch

from ctr_rec.bench.padded_grab import copy_histories
from ctr_rec.bench.synthetic import Shape, item_batch


def test_copies_are_the_newest_visible_events() -> None:
    batch = item_batch(Shape(impressions=12, users=3, distinct=20, history=4), 50, seed=0)
    batch = replace(batch, visible_end=torch.maximum(batch.visible_end - 3, batch.event_offsets[batch.impression_user]))
    copies = copy_histories(batch, torch.arange(12), reach=4)
    for n in range(12):
        end = int(batch.visible_end[n])
        first = max(int(batch.event_offsets[batch.impression_user[n]]), end - 4)
        length = int(copies.end_N[n])
        assert copies.event_NL[n, :length].tolist() == list(range(first, end))
        assert copies.history_end_NL[n, :length].tolist() == list(range(1, length + 1))
    assert copies.event_NL.shape[1] == max(1, int(copies.end_N.max()))
