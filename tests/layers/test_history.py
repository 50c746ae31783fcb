"""Event vectors by definition, shared rows, and each impression's newest event."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from ctr_rec.batch.batch import Jagged
from ctr_rec.layers.fields import join
from ctr_rec.layers.history import EventEncoder, newest_event
from ctr_rec.models.tower import Filling
from ctr_rec.schema.table import SparseSpec
from tests.models.streams import ITEMS_ONLY, SPEC, Log, look_up, make_batch, random_log


@pytest.mark.parametrize("spec", [SPEC, ITEMS_ONLY], ids=["fields", "items_only"])
@pytest.mark.parametrize("use_action", [True, False])
def test_event_is_item_plus_fields_plus_action(spec: SparseSpec, use_action: bool) -> None:
    batch = make_batch(random_log(0), Filling.PACKED, spec)
    embedded = look_up(batch, spec)
    encoder = EventEncoder(spec, 5, use_action).double()
    item_MD = torch.randn(batch.item.shape[0], 5, dtype=torch.float64, requires_grad=True)
    expected = item_MD[batch.event_item]
    if isinstance(encoder.project, nn.Linear):
        fields = join(spec.event, embedded.events, batch.events, batch.num_events)
        expected = expected + fields @ encoder.project.weight.t()
    if isinstance(encoder.action, nn.Embedding):
        expected = expected + encoder.action.weight[batch.event_action]
    got = encoder(item_MD, embedded, batch).per_event()
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-14)
    weights = torch.randn_like(got)
    wanted = [item_MD, *encoder.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad((got * weights).sum(), wanted),
        torch.autograd.grad((expected * weights).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_equal_events_share_a_row() -> None:
    log = random_log(0)
    log = replace(log, events=tuple(replace(e, item=e.item % 3, action=e.action % 2) for e in log.events))
    batch = make_batch(log, Filling.PACKED, ITEMS_ONLY)
    encoder = EventEncoder(ITEMS_ONLY, 4, use_action=True)
    vectors = encoder(torch.randn(batch.item.shape[0], 4), look_up(batch, ITEMS_ONLY), batch)
    assert vectors.distinct_KD.shape[0] == len({(e.item, e.action) for e in log.events}) <= 6
    assert vectors.row_T.shape == (batch.num_events,)


@pytest.mark.parametrize("spec", [SPEC, ITEMS_ONLY], ids=["fields", "items_only"])
def test_no_events(spec: SparseSpec) -> None:
    batch = make_batch(Log((), random_log(0).impressions[:1], 4), Filling.PACKED, spec)
    encoder = EventEncoder(spec, 4, use_action=True).double()
    item_MD = torch.randn(batch.item.shape[0], 4, dtype=torch.float64, requires_grad=True)
    out = encoder(item_MD, look_up(batch, spec), batch).per_event()
    assert out.shape == (0, 4)
    out.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in encoder.parameters())


def test_newest_event_of_packed_users() -> None:
    batch = make_batch(random_log(0, delay=5), Filling.PACKED)
    start = batch.event_offsets[batch.impression_user]
    for row, newest in enumerate(newest_event(batch).tolist()):
        if newest < 0:
            assert batch.visible_end[row] == start[row]
        else:
            known = batch.event_known_at[start[row] : batch.event_offsets[batch.impression_user[row] + 1]]
            assert newest - start[row] + 1 == (known < batch.impression_time[row]).sum()


def test_newest_event_is_the_latest_over_channels() -> None:
    base = make_batch(random_log(0), Filling.POINTWISE)
    base = replace(
        base, impression_user=torch.zeros(3, dtype=torch.int64), label=torch.zeros(3), visible_end=torch.zeros(3)
    )
    histories = {
        "a": Jagged(torch.tensor([0, 4, 1]), torch.tensor([0, 2, 2, 3])),
        "b": Jagged(torch.tensor([2, 3]), torch.tensor([0, 1, 1, 2])),
        "c": Jagged(torch.tensor([], dtype=torch.int64), torch.tensor([0, 0, 0, 0])),
    }
    assert newest_event(replace(base, histories=histories)).tolist() == [4, -1, 3]


@pytest.mark.parametrize("spec", [SPEC, ITEMS_ONLY])
def test_of_impressions_is_the_own_event_without_action_and_later_fields(spec: SparseSpec) -> None:
    batch = make_batch(random_log(0), Filling.PACKED, spec)
    embedded = look_up(batch, spec)
    encoder = EventEncoder(spec, 5, use_action=True).double()
    assert encoder.action is not None
    nn.init.zeros_(encoder.action.weight)
    unknown = {name: 0 * value for name, value in batch.events.numbers.items()}
    item = torch.randn(batch.item.shape[0], 5, dtype=torch.float64)
    events = encoder(item, embedded, replace(batch, events=replace(batch.events, numbers=unknown))).per_event()
    torch.testing.assert_close(encoder.of_impressions(item, embedded, batch), events[batch.impression_event])
