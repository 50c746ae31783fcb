"""Time of a request: hours, weekdays and gaps in the log's unit."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

import pytest
import torch
from torch import Tensor, nn

from ctr_rec.batch.batch import Batch, Jagged
from ctr_rec.layers.time import AGES, RequestTime
from ctr_rec.models.tower import Filling
from tests.models.streams import Log, make_batch, random_log


def _at(ticks: list[int], filling: Filling = Filling.PACKED) -> Batch:
    log = random_log(0)
    batch = make_batch(Log(log.events, log.impressions[: len(ticks)], log.num_users), filling)
    return replace(batch, impression_time=torch.tensor(ticks, dtype=torch.int64))


def _numbered(layer: RequestTime) -> RequestTime:
    for table in (layer.hour, layer.weekday, layer.gap):
        table.weight.data.copy_(torch.arange(table.num_embeddings, dtype=torch.float32)[:, None])
    return layer


@pytest.mark.parametrize("ticks_per_second", [1, 1000])
def test_hour_and_weekday_are_the_calendars(ticks_per_second: int) -> None:
    seconds = [0, 978_300_760, 978_300_760 + 3600, 1_700_000_123]
    layer = _numbered(RequestTime(1, ticks_per_second))
    out = layer(_at([s * ticks_per_second for s in seconds]))
    expected = [datetime.fromtimestamp(s, timezone.utc) for s in seconds]
    assert out[:, 0].tolist() == [d.hour for d in expected]
    assert out[:, 1].tolist() == [d.weekday() for d in expected]


def _gap(batch: Batch, ticks_per_second: int = 1) -> Tensor:
    return _numbered(RequestTime(1, ticks_per_second))(batch)[:, 2]


@pytest.mark.parametrize(("gap", "row"), [(0, 1), (1, 2), (2, 2), (3, 3), (2**20 - 2, 20), (2**20 - 1, 21)])
def test_gap_is_a_power_of_two_of_seconds(gap: int, row: int) -> None:
    base = _at([5])
    batch = replace(
        base,
        impression_time=torch.tensor([100 + gap]),
        event_time=torch.full_like(base.event_time, 100),
        visible_end=base.event_offsets[base.impression_user] + 1,
    )
    assert _gap(batch).tolist() == [row]
    late = replace(batch, impression_time=batch.impression_time * 1000, event_time=batch.event_time * 1000)
    assert _gap(late, 1000).tolist() == [row]


def test_no_visible_event_has_a_row_of_its_own() -> None:
    base = _at([5, 6])
    batch = replace(base, visible_end=base.event_offsets[base.impression_user])
    assert _gap(batch).tolist() == [0, 0]


def test_gap_is_clipped() -> None:
    base = _at([2**60])
    batch = replace(base, visible_end=base.event_offsets[base.impression_user] + 1)
    assert _gap(batch).tolist() == [AGES]


def test_gap_without_any_event() -> None:
    batch = make_batch(Log((), random_log(0).impressions[:2], 4), Filling.PACKED)
    assert _gap(batch).tolist() == [0, 0]


def test_gap_reads_own_channels_only() -> None:
    """In a pointwise batch other impressions' events lie between: the gap follows the impression's own histories."""
    base = _at([1000, 1000], Filling.POINTWISE)
    times = torch.arange(5) * 10
    histories = {
        "a": Jagged(torch.tensor([0, 2]), torch.tensor([0, 2, 2])),
        "b": Jagged(torch.tensor([1, 4]), torch.tensor([0, 1, 2])),
    }
    batch = replace(base, event_item=torch.zeros(5), event_time=times, histories=histories)
    expected = [1 + len(bin(1 + 1000 - 20)) - 3, 1 + len(bin(1 + 1000 - 40)) - 3]
    assert _gap(batch).tolist() == expected


def test_width_and_gradient() -> None:
    layer = RequestTime(4, 1)
    out = layer(_at([5, 6, 7]))
    assert out.shape == (3, layer.width) == (3, 12)
    out.sum().backward()
    assert all(isinstance(t, nn.Embedding) and t.weight.grad is not None for t in layer.children())


def test_of_events_is_the_clock_of_their_own_time_and_no_gap() -> None:
    layer = _numbered(RequestTime(1, 1000))
    base = _at([5])
    times = torch.arange(base.num_events) * 45_678_901
    out = layer.of_events(replace(base, event_time=times))
    expected = [datetime.fromtimestamp(t / 1000, timezone.utc) for t in times.tolist()]
    assert out[:, 0].tolist() == [d.hour for d in expected]
    assert out[:, 1].tolist() == [d.weekday() for d in expected]
    assert not out[:, 2].any()
