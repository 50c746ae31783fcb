from __future__ import annotations

import numpy as np
import pytest
import torch

from ctr_rec.bench.synthetic import CHANNEL, Shape, item_batch, item_spec
from ctr_rec.models.baselines.din import DINConfig
from ctr_rec.models.ranker import Ranker

SHAPE = Shape(impressions=12, users=3, distinct=40, history=5)


@pytest.mark.parametrize("rows", [40, 100, 10_000])
def test_counts_are_as_asked(rows: int) -> None:
    batch = item_batch(SHAPE, rows, seed=1)
    ids = batch.tables["item"].numpy()
    assert len(ids) == SHAPE.distinct
    assert (np.diff(ids) > 0).all()
    assert ids.min() >= 0
    assert ids.max() < rows
    assert (batch.histories[CHANNEL].lengths() == SHAPE.history).all()
    assert batch.num_impressions == batch.global_impressions == SHAPE.impressions
    assert item_batch(SHAPE, rows, 1, 99).global_impressions == 99


def test_an_impression_reads_its_own_users_past() -> None:
    batch = item_batch(SHAPE, 100, seed=2)
    user_T = torch.repeat_interleave(batch.user, batch.event_offsets.diff())
    history = batch.histories[CHANNEL]
    impression_P = torch.repeat_interleave(torch.arange(batch.num_impressions), history.lengths())
    assert torch.equal(user_T[history.values], batch.impression_user[impression_P])
    assert (history.values < batch.visible_end[impression_P]).all()
    assert (batch.event_time[history.values] < batch.impression_time[impression_P]).all()


def test_a_ranker_scores_it() -> None:
    ranker = Ranker(item_spec(100, 8), DINConfig(), (CHANNEL,), front_device="cpu")
    logit = ranker(item_batch(SHAPE, 100, seed=3))
    assert logit.shape == (12,)
    assert torch.isfinite(logit).all()
