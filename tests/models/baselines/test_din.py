"""DIN against a plain padded version of itself, its codes, ablations and empty batches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ctr_rec.batch.batch import Batch
from ctr_rec.errors import ConfigError
from ctr_rec.layers.context import ContextSettings
from ctr_rec.layers.fields import join
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.target_attention import TargetAttentionSettings
from ctr_rec.models.baselines.din import DINConfig, DINTower
from ctr_rec.models.tower import Filling
from tests.models.edges import check_edges, check_switch
from tests.models.streams import CHANNELS, ITEMS_ONLY, SPEC, Scorer, look_up, make_batch, random_log

SMALL = {"mlp": MLPSettings(hidden=(6, 4), dropout=0.0), "attention": TargetAttentionSettings(hidden=(5, 3))}
TEXTBOOK = DINConfig(**SMALL, context=ContextSettings(use_time=False), use_action=False, use_age=False, use_order=False)


def _padded(tower: DINTower, batch: Batch) -> torch.Tensor:
    """Padded DIN: [N, L, 4D] through the attention MLP, masked, weighted sum."""
    embedded = look_up(batch, ITEMS_ONLY)
    item_MD = join(ITEMS_ONLY.item, embedded.items, batch.items, batch.item.shape[0])
    t = item_MD[batch.impression_item]
    parts = [t]
    for name, unit in tower.attention.items():
        history = batch.histories[name]
        lengths, longest = history.lengths(), CHANNELS[name][1]
        mask = torch.arange(longest) < lengths[:, None]
        slot = (history.offsets[:-1, None] + torch.arange(longest)).clamp(max=len(history.values) - 1)
        h = item_MD[batch.event_item[history.values[slot]]]
        target = t[:, None].expand_as(h)
        x = torch.relu(unit.first(torch.cat([target, h, target - h, target * h], -1)))
        for layer in unit.hidden:
            x = torch.relu(layer(x))
        parts.append(((unit.out(x) * mask[..., None]) * h).sum(1))
    return tower.mlp(torch.cat(parts, -1))


def test_equals_padded_din() -> None:
    scorer = Scorer(TEXTBOOK, ITEMS_ONLY)
    batch = scorer.batch(random_log(0))
    tower = scorer.tower
    assert isinstance(tower, DINTower)
    expected = _padded(tower, batch)
    got = tower(look_up(batch, ITEMS_ONLY), batch)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    wanted = list(tower.parameters())
    weights = torch.randn_like(got)
    for ours, theirs in zip(
        torch.autograd.grad((got * weights).sum(), wanted),
        torch.autograd.grad((expected * weights).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


def test_pair_codes() -> None:
    tower = DINConfig(**SMALL, orders=2).build(SPEC, tuple(CHANNELS))
    log = random_log(0)
    batch = make_batch(log, Filling.POINTWISE)
    history = batch.histories["all"]
    codes = tower._pair_codes(history, batch)
    for n in range(batch.num_impressions):
        a, b = int(history.offsets[n]), int(history.offsets[n + 1])
        ages = [int(batch.impression_time[n] - batch.event_time[e]) for e in history.values[a:b]]
        assert codes["age"][a:b].tolist() == [(1 + age).bit_length() - 1 for age in ages]
        assert codes["order"][a:b].tolist() == [min(1, b - a - 1 - i) for i in range(b - a)]


def test_ages_follow_the_logs_unit() -> None:
    spec = SPEC.model_copy(update={"ticks_per_second": 1000})
    batch = make_batch(random_log(0), Filling.POINTWISE)
    millis = replace(batch, impression_time=batch.impression_time * 1000, event_time=batch.event_time * 1000 + 7)
    seconds = DINConfig(**SMALL).build(SPEC, tuple(CHANNELS))._pair_codes(batch.histories["all"], batch)
    other = DINConfig(**SMALL).build(spec, tuple(CHANNELS))._pair_codes(batch.histories["all"], millis)
    shorter = (seconds["age"] - other["age"]).unique().tolist()
    assert set(shorter) <= {0, 1}


def test_order_matters_only_where_it_is_read() -> None:
    for use_order in (True, False):
        scorer = Scorer(DINConfig(**SMALL, context=ContextSettings(use_time=False), use_age=False, use_order=use_order))
        batch = scorer.batch(random_log(0))
        base = scorer(look_up(batch), batch)
        for history in batch.histories.values():
            for a, b in zip(history.offsets.tolist(), history.offsets[1:].tolist(), strict=False):
                history.values[a:b] = history.values[a:b].flip(0)
        moved = (scorer(look_up(batch), batch) - base).abs().max() > 1e-9
        assert bool(moved) is use_order


@pytest.mark.parametrize("switch", ["use_action", "use_profile", "use_request", "use_counters", "use_time"])
def test_each_switch_removes_its_input(switch: str) -> None:
    check_switch(DINConfig(**SMALL), switch)


def test_age_switch() -> None:
    check_switch(DINConfig(**SMALL, context=ContextSettings(use_time=False)), "use_age")


def test_edges() -> None:
    check_edges(DINConfig(**SMALL))


def test_no_channel_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"DIN attends to histories and got no channel; add one to data\.channels"):
        DINConfig().build(SPEC, ())
