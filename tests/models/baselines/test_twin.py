"""TWIN against its formula in plain loops: the search and the attention are one; no gradient, FLOPs, empty batches."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from ctr_rec.batch.batch import Batch
from ctr_rec.batch.request import request_batch
from ctr_rec.errors import ConfigError
from ctr_rec.layers.behaviours import BehaviourSettings
from ctr_rec.layers.context import ContextSettings
from ctr_rec.layers.fields import join
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.retrieval import RetrievalSettings
from ctr_rec.layers.target_attention import TargetAttentionSettings
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.baselines.twin import TWINAttention, TWINConfig, TWINTower
from ctr_rec.models.tower import Filling
from ctr_rec.schema.table import SparseSpec
from tests.models.edges import check_edges, check_switch
from tests.models.flops import assert_flops_match
from tests.models.streams import CHANNELS, ITEMS_ONLY, SPEC, Scorer, look_up, make_batch, random_log

D, H = 6, 3
SMALL = TWINConfig(
    tokens=TokenSettings(width=D, recent="liked", context=ContextSettings(use_time=False)),
    channel="all",
    most=2,
    heads=H,
    attention=TargetAttentionSettings(hidden=(5, 3)),
    mlp=MLPSettings(hidden=(4, 3), dropout=0.0),
)
BARE = SMALL.model_copy(
    update={
        "tokens": TokenSettings(
            width=D, recent="liked", behaviour=BehaviourSettings(use_action=False, use_age=False, use_order=False)
        )
    }
)


def _tower(config: TWINConfig, spec: SparseSpec = SPEC) -> TWINTower:
    tower = Scorer(config, spec).tower
    assert isinstance(tower, TWINTower)
    return tower


def _cross(twin: TWINAttention, fields_TF: Tensor, batch: Batch, n: int, event: int) -> Tensor:
    """What a pair says besides its items: one number per head, then its part of the value."""
    cross = torch.zeros(H + D, dtype=torch.float64)
    if twin.event is not None:
        cross = cross + twin.event.weight @ fields_TF[event]
    if twin.action_AC is not None:
        cross = cross + twin.action_AC[batch.event_action[event]]
    if twin.age_BC is not None:
        seconds = int(batch.impression_time[n] - batch.event_time[event])
        cross = cross + twin.age_BC[(1 + seconds).bit_length() - 1]
    return cross


def _by_loops(tower: TWINTower, batch: Batch, spec: SparseSpec, most: int) -> tuple[Tensor, list[int]]:
    """Output, and the positions of what is chosen. Every alpha of every pair by itself."""
    twin, embedded, width = tower.twin, look_up(batch, spec), D // H
    item_MD = join(tower.item, embedded.items, batch.items, len(batch.item))
    fields_TF = join(spec.event, embedded.events, batch.events, batch.num_events)
    tokens_NLD, history = tower.inputs(embedded, batch), batch.histories["all"]
    out, positions = [], []
    for n in range(batch.num_impressions):
        seen = history.values[int(history.offsets[n]) : int(history.offsets[n + 1])].tolist()
        t, pairs = item_MD[batch.impression_item[n]], []
        for event in seen:
            e, cross = item_MD[batch.event_item[event]], _cross(twin, fields_TF, batch, n, event)
            q, k = (twin.query.weight @ t).view(H, width), (twin.key.weight @ e).view(H, width)
            alpha_H = torch.stack([q[h] @ k[h] / math.sqrt(width) + cross[h] for h in range(H)])
            pairs.append((event, alpha_H, (twin.value.weight @ e + cross[H:]).view(H, width)))
        ranked = sorted(range(len(pairs)), key=lambda i: pairs[i][1].sum().item())[-most:]
        chosen = [pairs[i] for i in sorted(ranked)]
        positions += [event for event, _, _ in chosen]
        heads = torch.zeros(H, width, dtype=torch.float64)
        total_H = sum((alpha.exp() for _, alpha, _ in chosen), torch.zeros(H))
        for _, alpha, value in chosen:
            heads = heads + (alpha.exp() / total_H).unsqueeze(1) * value
        out.append(tower.mlp(torch.cat([tokens_NLD[n].flatten(), twin.out.weight @ heads.flatten()])))
    return torch.stack(out), positions


@pytest.mark.parametrize("name", ["small", "bare", "items only"])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_formula(name: str, seed: int) -> None:
    spec = ITEMS_ONLY if name == "items only" else SPEC
    tower = _tower(BARE if name == "bare" else SMALL, spec)
    batch = make_batch(random_log(seed, delay=seed), Filling.POINTWISE, spec)
    got, (expected, _) = tower(look_up(batch, spec), batch), _by_loops(tower, batch, spec, 2)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-11)
    wanted, weights = list(tower.parameters()), torch.randn_like(got)
    for ours, theirs in zip(
        torch.autograd.grad((got * weights).sum(), wanted),
        torch.autograd.grad((expected * weights).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_the_search_follows_the_attention() -> None:
    """With one event to keep, the choice is the largest alpha; it is not always the newest."""
    tower, batch = _tower(SMALL.model_copy(update={"most": 1})), make_batch(random_log(0), Filling.POINTWISE)
    _, chosen = _by_loops(tower, batch, SPEC, 1)
    history = batch.histories["all"]
    some = history.lengths() > 0
    assert chosen != history.values[history.offsets[1:][some] - 1].tolist()
    got, (expected, _) = tower(look_up(batch), batch), _by_loops(tower, batch, SPEC, 1)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-11)


def test_age_is_a_cross_feature() -> None:
    for use_age in (True, False):
        behaviour = SMALL.tokens.behaviour.model_copy(update={"use_age": use_age})
        scorer = Scorer(SMALL.model_copy(update={"tokens": SMALL.tokens.model_copy(update={"behaviour": behaviour})}))
        batch = scorer.batch(random_log(6))
        later = replace(batch, impression_time=batch.impression_time + 9999)
        moved = (scorer(look_up(batch), later) - scorer(look_up(batch), batch)).abs().max() > 1e-9
        assert bool(moved) is use_age


@pytest.mark.parametrize("switch", ["use_action", "use_profile", "use_request", "use_counters"])
def test_each_switch_removes_its_input(switch: str) -> None:
    check_switch(SMALL, switch)


@pytest.mark.parametrize("alone", [False, True], ids=["batch", "request"])
def test_flops(alone: bool) -> None:
    batch = make_batch(random_log(2, delay=1), Filling.POINTWISE)
    if alone:
        batch = request_batch(batch, int(batch.history_length.argmax()), candidates=5)
    # The search multiplies pair by pair, which is no matrix product.
    pairs = len(batch.histories[SMALL.channel].values)
    assert_flops_match(SMALL, SPEC, batch, unseen=2 * pairs * SMALL.tokens.width)


@pytest.mark.parametrize("config", [SMALL, BARE], ids=["small", "bare"])
def test_edges(config: TWINConfig) -> None:
    check_edges(config)


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"TWIN searches by its own attention; set tokens\.retrieval to null"):
        TWINConfig(tokens=TokenSettings(retrieval=RetrievalSettings()))
    with pytest.raises(ValidationError, match=r"heads is 4 and tokens\.width 6; choose a width that heads divide"):
        TWINConfig(tokens=TokenSettings(width=6), heads=4)
    with pytest.raises(
        ConfigError, match=r"TWIN searches the channel 'lifelong', data\.channels has \['all', 'liked'\]"
    ):
        SMALL.model_copy(update={"channel": "lifelong"}).build(SPEC, tuple(CHANNELS))
