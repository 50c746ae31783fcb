"""The context: what each switch takes away, the order of the rest, and its width."""

from __future__ import annotations

import pytest
import torch

from ctr_rec.layers.context import Context, ContextSettings
from ctr_rec.models.tower import Filling
from tests.models.streams import SPEC, look_up, make_batch, random_log

SWITCHES = ("use_profile", "use_request", "use_counters", "use_time")
# slot 4; user 3 and age 1; two counters; three time embeddings of 5.
WIDTHS = {"use_request": 4, "use_counters": 2, "use_profile": 4, "use_time": 15}


def _context(on: tuple[str, ...]) -> Context:
    return Context(SPEC, ContextSettings(time_dim=5, **{name: name in on for name in SWITCHES})).double()


def test_parts_stand_side_by_side() -> None:
    batch = make_batch(random_log(0), Filling.POINTWISE)
    embedded = look_up(batch)
    whole = _context(SWITCHES)
    out = whole(embedded, batch)
    assert out.shape == (batch.num_impressions, whole.width) == (batch.num_impressions, 25)
    slot, counters, profile, _ = out.split(list(WIDTHS.values()), dim=-1)
    assert torch.equal(slot, embedded.impressions["slot"])
    assert torch.equal(counters, torch.stack([batch.impressions.numbers[c] for c in SPEC.counters], -1))
    users = torch.cat([embedded.users["user"], batch.users.numbers["age"][:, None]], -1)
    assert torch.equal(profile, users[batch.impression_user])


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_takes_its_part_away(name: str) -> None:
    batch = make_batch(random_log(0), Filling.POINTWISE)
    without = _context(tuple(s for s in SWITCHES if s != name))
    assert without.width == 25 - WIDTHS[name]
    assert without(look_up(batch), batch).shape == (batch.num_impressions, without.width)


def test_nothing_left_has_width_zero() -> None:
    batch = make_batch(random_log(0), Filling.POINTWISE)
    nothing = _context(())
    assert nothing.width == 0
    assert nothing(look_up(batch), batch).shape == (batch.num_impressions, 0)


def test_action_features_never_describe_the_candidate() -> None:
    assert [f.name for f in _context(SWITCHES).request] == ["slot"]


@pytest.mark.parametrize("off", [None, *SWITCHES])
def test_of_events_holds_the_same_parts_of_each_event(off: str | None) -> None:
    batch = make_batch(random_log(0), Filling.PACKED)
    embedded = look_up(batch)
    on = tuple(s for s in WIDTHS if s != off)
    out = _context(on).of_events(embedded, batch)
    assert out.shape == (batch.num_events, sum(WIDTHS[s] for s in on))
    parts = dict(zip(on, out.split([WIDTHS[s] for s in on], dim=-1), strict=True))
    if "use_request" in on:
        assert torch.equal(parts["use_request"], embedded.events["slot"])
    if "use_counters" in on:
        assert not parts["use_counters"].any()
    if "use_profile" in on:
        users = torch.cat([embedded.users["user"], batch.users.numbers["age"][:, None]], -1)
        owner = torch.repeat_interleave(torch.arange(batch.num_users), batch.event_offsets.diff())
        assert torch.equal(parts["use_profile"], users[owner])


def test_of_events_without_any_part_has_width_zero() -> None:
    batch = make_batch(random_log(0), Filling.PACKED)
    assert _context(()).of_events(look_up(batch), batch).shape == (batch.num_events, 0)
