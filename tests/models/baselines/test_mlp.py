"""The MLP baseline: shape, ablations, empty batches, and what it may depend on."""

from __future__ import annotations

import pytest
import torch

from ctr_rec.layers.context import ContextSettings
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.models.baselines.mlp import MLPConfig
from ctr_rec.models.tower import Filling
from tests.models.edges import check_edges, check_switch
from tests.models.streams import CHANNELS, SPEC, Scorer, look_up, make_batch, random_log

SMALL = MLPSettings(hidden=(6, 4), dropout=0.0)


def test_is_an_mlp_over_the_pooled_inputs() -> None:
    tower = MLPConfig(mlp=SMALL).build(SPEC, tuple(CHANNELS)).double()
    batch = make_batch(random_log(0), Filling.POINTWISE)
    embedded = look_up(batch)
    out = tower(embedded, batch)
    assert out.shape == (batch.num_impressions, tower.out_width) == (batch.num_impressions, 4)
    assert torch.equal(out, tower.mlp(tower.inputs(embedded, batch)))


def test_history_order_does_not_matter() -> None:
    """It is a mean: the baseline that a sequence model has to beat."""
    scorer = Scorer(MLPConfig(mlp=SMALL, context=ContextSettings(use_time=False)))
    log = random_log(0)
    batch = scorer.batch(log)
    base = scorer(look_up(batch), batch)
    for history in batch.histories.values():
        for a, b in zip(history.offsets.tolist(), history.offsets[1:].tolist(), strict=False):
            history.values[a:b] = history.values[a:b].flip(0)
    torch.testing.assert_close(scorer(look_up(batch), batch), base, rtol=0, atol=1e-12)


@pytest.mark.parametrize("switch", ["use_action", "use_profile", "use_request", "use_counters", "use_time"])
def test_each_switch_removes_its_input(switch: str) -> None:
    check_switch(MLPConfig(mlp=SMALL), switch)


def test_counts_stand_behind_the_pooled_inputs() -> None:
    tower = MLPConfig(mlp=SMALL, use_counts=True).build(SPEC, tuple(CHANNELS)).double()
    batch = make_batch(random_log(0), Filling.POINTWISE)
    embedded = look_up(batch)
    counts = torch.stack([(1.0 + h.offsets.diff()).log() for h in batch.histories.values()], dim=1)
    expected = tower.mlp(torch.cat([tower.inputs(embedded, batch), counts.double()], dim=1))
    torch.testing.assert_close(tower(embedded, batch), expected, rtol=0, atol=1e-6)
    assert tower.axes()["mlp.layers.0.weight"][1][-2:] == tuple((f"count/{name}", 1) for name in CHANNELS)


def test_edges() -> None:
    check_edges(MLPConfig(mlp=SMALL))
