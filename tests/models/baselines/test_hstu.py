"""HSTU against the paper's formula, one impression at a time; packing, windows, ties, ablations, empty batches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.context import ContextSettings
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.fields import join
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.models.baselines.hstu import AttentionNorm, HSTUConfig, HSTULayer, HSTUTower
from tests.models.edges import check_edges, check_switch
from tests.models.streams import SPEC, Log, Scorer, look_up, random_log

SMALL = HSTUConfig(width=6, heads=2, head_width=3, window=4, layers=2, dropout=0.0, mlp=MLPSettings(hidden=(5,)))
VARIANTS = {
    "window": SMALL,
    "three_layers": SMALL.model_copy(update={"layers": 3, "window": 3}),
    "wide": SMALL.model_copy(update={"window": 100}),
    "one_layer": SMALL.model_copy(update={"layers": 1}),
    "count": SMALL.model_copy(update={"norm": AttentionNorm.VISIBLE_COUNT}),
    "no_bias": SMALL.model_copy(update={"use_age": False, "use_order": False}),
    "age_only": SMALL.model_copy(update={"use_order": False}),
    "order_only": SMALL.model_copy(update={"use_age": False}),
    "end_without_context": SMALL.model_copy(update={"context_at_end": False}),
    "no_action": SMALL.model_copy(update={"use_action": False}),
}


def _norm(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], eps=1e-6)


def _layer(layer: HSTULayer, config: HSTUConfig, x: Tensor, hi: list[int], times: Tensor, own: int) -> Tensor:
    """Section 3.1 with loops over queries and keys. Token `own` is the candidate: it also sees itself."""
    heads, width = config.heads, config.head_width
    k, v, q, u = functional.silu(_norm(x) @ layer.kvqu.weight.t()).unflatten(-1, (4, heads, width)).unbind(1)
    rows = []
    for i in range(len(x)):
        total = torch.zeros(heads, width, dtype=torch.float64)
        keys = list(range(max(0, hi[i] - config.window), hi[i])) + ([i] if i == own else [])
        for j in keys:
            logit = (q[i] * k[j]).sum(-1) * width**-0.5
            distance = 0 if j == own else hi[i] - j
            seconds = 0 if j == own else int(times[i] - times[j])
            if layer.position_PH is not None:
                logit = logit + layer.position_PH[min(distance, config.window)]
            if layer.time_BH is not None:
                logit = logit + layer.time_BH[min((1 + seconds).bit_length() - 1, 31)]
            total = total + functional.silu(logit)[:, None] * v[j]
        divisor = config.window if config.norm is AttentionNorm.CONSTANT else max(1, len(keys))
        rows.append((_norm((total / divisor).flatten()) * u[i].flatten()) @ layer.out.weight.t() + layer.out.bias)
    return x + torch.stack(rows)


def _paper(scorer: Scorer, log: Log) -> Tensor:
    """Each impression alone: its visible history, then the candidate as the last token."""
    return torch.stack([_one(scorer, log.only(i)) for i in log.impressions]).squeeze(-1)


def _one(scorer: Scorer, log: Log) -> Tensor:
    tower = scorer.tower
    assert isinstance(tower, HSTUTower)
    batch, config = scorer.batch(log), tower.config
    embedded = look_up(batch, scorer.spec)
    item = tower.project_item(join(tower.item, embedded.items, batch.items, batch.item.shape[0]))
    context = tower.context(embedded, batch)
    history = tower.history_norm(_events(tower, item, embedded, batch))
    assert tower.project_context is not None
    candidate = tower.candidate_norm(item[batch.impression_item] + tower.project_context(context))
    x = torch.cat([history, candidate])
    times = torch.cat([batch.event_known_at, batch.impression_time])
    known = batch.event_known_at.tolist()
    hi = [sum(k <= t for k in known) for t in known] + [len(known)]
    for layer in tower.layers:
        assert isinstance(layer, HSTULayer)
        x = _layer(layer, config, x, hi, times, own=len(known))
    state = _norm(x[-1:])
    return scorer.head(tower.mlp(torch.cat([state, context], -1) if config.context_at_end else state)).squeeze(0)


def _events(tower: HSTUTower, item: Tensor, embedded: Embedded, batch: Batch) -> Tensor:
    events = tower.events
    out = item[batch.event_item]
    if events.project is not None:
        out = out + events.project(join(events.features, embedded.events, batch.events, batch.num_events))
    return out if events.action is None else out + events.action(batch.event_action)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("delay", [0, 4])
def test_packed_equals_the_paper_alone(name: str, delay: int) -> None:
    scorer = Scorer(VARIANTS[name])
    log = random_log(2, delay=delay)
    batch = scorer.batch(log)
    got = scorer(look_up(batch), batch)
    expected = _paper(scorer, log)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-11)
    weights = torch.randn_like(got)
    wanted = [p for p in scorer.parameters() if p.requires_grad]
    ours = torch.autograd.grad((got * weights).sum(), wanted)
    theirs = torch.autograd.grad((expected * weights).sum(), wanted)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_packed_equals_alone_in_float32() -> None:
    scorer = Scorer(HSTUConfig(window=8)).float()
    log = random_log(2)
    packed = scorer.score(log)
    for impression in log.impressions:
        alone = scorer.score(log.only(impression))[impression.key]
        assert alone == pytest.approx(packed[impression.key], rel=0, abs=1e-5)


def test_order_of_impressions_does_not_matter() -> None:
    scorer = Scorer(SMALL)
    log = random_log(2)
    base = scorer.score(log)
    shuffled = replace(log, impressions=tuple(reversed(log.impressions)))
    for key, value in scorer.score(shuffled).items():
        assert value == pytest.approx(base[key], rel=0, abs=1e-12)


def test_reach_is_layers_times_window() -> None:
    """What lies further back than layers x window events cannot matter; one event nearer can."""
    config = SMALL.model_copy(update={"window": 2, "layers": 2, "context": ContextSettings(use_time=False)})
    scorer = Scorer(config)
    log = random_log(0, num_users=2, num_events=9)
    log = replace(log, events=tuple(replace(e, time=10 * n, request=n) for n, e in enumerate(log.events)))
    log = replace(log, impressions=(replace(log.impressions[0], key=99, request_time=1000),))
    base = scorer.score(log)[99]
    for index, event in enumerate(log.events):
        other = replace(event, item=(event.item + 1) % 40)
        events = (*log.events[:index], other, *log.events[index + 1 :])
        moved = abs(scorer.score(replace(log, events=events))[99] - base) > 1e-9
        # The candidate sees events 7 and 8; a token sees itself and the one before, so event 7 has seen event 6.
        assert moved is (index >= 6), index


@pytest.mark.parametrize("switch", ["use_action", "use_profile", "use_request", "use_counters", "use_time"])
def test_each_switch_removes_its_input(switch: str) -> None:
    check_switch(SMALL, switch)


def test_age_switch() -> None:
    check_switch(SMALL.model_copy(update={"context": ContextSettings(use_time=False)}), "use_age")


@pytest.mark.parametrize("layers", [1, 2])
def test_edges(layers: int) -> None:
    check_edges(SMALL.model_copy(update={"layers": layers}))


def test_seconds_follow_the_logs_unit() -> None:
    millis = SPEC.model_copy(update={"ticks_per_second": 1000})
    log = random_log(2)
    base = Scorer(SMALL).score(log)
    late = replace(
        log,
        events=tuple(replace(e, time=e.time * 1000) for e in log.events),
        impressions=tuple(replace(i, request_time=i.request_time * 1000) for i in log.impressions),
    )
    for key, value in Scorer(SMALL, millis).score(late).items():
        assert value == pytest.approx(base[key], rel=0, abs=1e-12)
