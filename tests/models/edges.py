"""Checks that every tower must pass: stand-ins and empty batches, dead parameters, and switches that switch."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch

from ctr_rec.config import Config
from ctr_rec.models.tower import TowerConfig
from tests.models.streams import NUM_ACTIONS, Log, Scorer, look_up, random_log

C = TypeVar("C", bound=Config)


def check_edges(config: TowerConfig) -> None:
    """Forward and backward where there is a single impression without history, no event at all, or no impression.

    Every parameter must receive a gradient all the same: data-parallel training waits for each of them.
    """
    log = random_log(0)
    first = min(log.impressions, key=lambda i: i.request_time)
    others = tuple(e for e in log.events if e.user != first.user)
    for name, edge in {
        "no history": replace(log, events=others, impressions=(first,)),
        "no event": Log((), (first,), log.num_users),
        "one event": replace(log, events=others[:1], impressions=log.impressions[-1:]),
        "no impression": replace(log, impressions=()),
        "nothing": Log((), (), 1),
    }.items():
        scorer = Scorer(config, seed=1).train()
        batch = scorer.batch(edge)
        logits = scorer(look_up(batch), batch)
        assert logits.shape == (len(edge.impressions),), name
        assert torch.isfinite(logits).all(), name
        logits.sum().backward()
        for where, parameter in scorer.named_parameters():
            assert parameter.grad is not None, (name, where)
            assert torch.isfinite(parameter.grad).all(), (name, where)


def check_switch(config: TowerConfig, switch: str) -> None:
    """On, the input moves the score; off, it does not. `switch` is a field of the config or of settings in it."""
    log = random_log(6)
    for on in (True, False):
        changed = _with_switch(config, switch, on)
        scorer = Scorer(changed)
        batch = scorer.batch(log)
        embedded = look_up(batch)
        base = scorer(embedded, batch)
        if switch == "use_action":
            other = replace(batch, event_action=(batch.event_action + 1) % NUM_ACTIONS)
        elif switch == "use_counters":
            numbers = {k: v + 1 for k, v in batch.impressions.numbers.items()}
            other = replace(batch, impressions=replace(batch.impressions, numbers=numbers))
        elif switch == "use_profile":
            other = replace(batch, users=replace(batch.users, numbers={"age": batch.users.numbers["age"] + 1}))
        elif switch == "use_request":
            other = batch
            embedded = replace(embedded, impressions={k: v + 1 for k, v in embedded.impressions.items()})
        elif switch == "use_time":
            # A week and an hour for all clocks at once: only the hour of day changes.
            shift = 3600 * (1 + 24 * 7)
            other = replace(
                batch,
                impression_time=batch.impression_time + shift,
                event_time=batch.event_time + shift,
                event_known_at=batch.event_known_at + shift,
            )
        elif switch == "use_age":
            # Long ago, with all gaps to the newest event kept: pairs of one impression with its older events differ.
            assert not changed.context.use_time  # type: ignore[attr-defined]
            other = replace(batch, event_time=batch.event_time - 9999, event_known_at=batch.event_known_at - 9999)
        else:
            raise AssertionError(f"no change is known for {switch}")
        moved = (scorer(embedded, other) - base).abs().max() > 1e-9
        assert bool(moved) is on, f"{switch}={on}"


def _with_switch(config: C, switch: str, on: bool) -> C:
    """The config with the field set wherever it stands."""
    update: dict[str, object] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        if name == switch:
            update[name] = on
        elif isinstance(value, Config):
            update[name] = _with_switch(value, switch, on)
    return config.model_copy(update=update)
