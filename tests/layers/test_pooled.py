"""Flat inputs against a loop over impressions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ctr_rec.errors import ConfigError
from ctr_rec.layers.context import ContextSettings
from ctr_rec.layers.fields import join
from ctr_rec.layers.pooled import PooledInputs, item_width
from ctr_rec.models.tower import Filling
from tests.models.streams import CHANNELS, ITEMS_ONLY, SPEC, Log, look_up, make_batch, random_log


def test_equals_a_loop() -> None:
    batch = make_batch(random_log(0), Filling.POINTWISE)
    embedded = look_up(batch)
    inputs = PooledInputs(SPEC, tuple(CHANNELS), ContextSettings(), True, "MLP").double()
    got = inputs(embedded, batch)
    assert got.shape == (batch.num_impressions, inputs.width)
    item_MD = join(SPEC.item, embedded.items, batch.items, batch.item.shape[0])
    assert inputs.events is not None
    event_TD = inputs.events(item_MD, embedded, batch).per_event()
    empty = 0
    for n in range(batch.num_impressions):
        parts = [item_MD[batch.impression_item[n]]]
        for name in CHANNELS:
            history = batch.histories[name]
            seen = event_TD[history.values[history.offsets[n] : history.offsets[n + 1]]]
            empty += len(seen) == 0
            parts.append(seen.mean(0) if len(seen) else torch.zeros(9, dtype=torch.float64))
        torch.testing.assert_close(got[n, : 3 * 9], torch.cat(parts), rtol=0, atol=1e-14)
    assert empty > 0


def test_without_channels() -> None:
    batch = replace(make_batch(random_log(0), Filling.POINTWISE, ITEMS_ONLY), histories={})
    inputs = PooledInputs(ITEMS_ONLY, (), ContextSettings(use_time=False), True, "MLP")
    assert inputs(look_up(batch, ITEMS_ONLY), batch).shape == (batch.num_impressions, 4)
    assert inputs.flops(batch) == 0


def test_no_event_at_all() -> None:
    batch = make_batch(Log((), random_log(0).impressions[:2], 4), Filling.POINTWISE)
    inputs = PooledInputs(SPEC, tuple(CHANNELS), ContextSettings(), True, "MLP").double()
    out = inputs(look_up(batch), batch)
    out.sum().backward()
    assert not out[:, 9:27].any()
    assert all(p.grad is not None for p in inputs.parameters())


def test_an_item_without_features_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"DIN needs at least one item feature .* got none; .*embedding\.exclude"):
        item_width(SPEC.model_copy(update={"item": ()}), "DIN")
