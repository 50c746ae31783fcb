"""SIM against its formula in plain loops, hard and soft search, FLOPs, empty batches."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from ctr_rec.batch.batch import Batch
from ctr_rec.batch.request import request_batch
from ctr_rec.layers.compressed import CompressedTokens
from ctr_rec.layers.context import ContextSettings
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.multi_head_target import MultiHeadTargetAttention
from ctr_rec.layers.retrieval import RetrievalSettings, Search
from ctr_rec.layers.target_attention import TargetAttention, TargetAttentionSettings
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.baselines.mlp import MLPTower
from ctr_rec.models.baselines.sim import SIMConfig
from ctr_rec.models.tower import Filling
from tests.models.edges import check_edges, check_switch
from tests.models.flops import assert_flops_match
from tests.models.streams import SPEC, Scorer, look_up, make_batch, random_log

D, H = 6, 3


def _config(by: Search, feature: str) -> SIMConfig:
    search = RetrievalSettings(channel="all", most=2, by=by, feature=feature)
    return SIMConfig(
        tokens=TokenSettings(width=D, recent="liked", retrieval=search, context=ContextSettings(use_time=False)),
        attention=TargetAttentionSettings(hidden=(5, 3)),
        heads=H,
        mlp=MLPSettings(hidden=(4, 3), dropout=0.0),
    )


HARD, SOFT = _config(Search.CATEGORY, "genres"), _config(Search.ID, "item")


def _found(by: Search, batch: Batch, n: int) -> list[int]:
    """Positions of the events that impression n retrieves, oldest first, by a loop over what it sees."""
    history = batch.histories["all"]
    seen = history.values[int(history.offsets[n]) : int(history.offsets[n + 1])].tolist()
    candidate = int(batch.impression_item[n])
    if by is Search.CATEGORY:
        genres = batch.items.ids["genres"]
        assert genres.offsets is not None
        bounds = genres.offsets.tolist()
        of = [set(genres.index[a:b].tolist()) - {0} for a, b in pairwise(bounds)]
        return [e for e in seen if of[candidate] & of[int(batch.event_item[e])]][-2:]
    x = look_up(batch).items["item"]
    cosine = [float(torch.cosine_similarity(x[candidate], x[int(batch.event_item[e])], dim=0)) for e in seen]
    best = sorted(range(len(seen)), key=lambda i: (cosine[i], i))[-2:]
    return [seen[i] for i in sorted(best)]


def _by_loops(tower: MLPTower, batch: Batch, by: Search) -> Tensor:
    inputs = tower.inputs
    assert isinstance(inputs, CompressedTokens)
    tokens = inputs.inputs(look_up(batch), batch)
    recent, retrieved = tokens.behaviours["liked"], tokens.behaviours["retrieved"]
    din, esu = inputs.attention["liked"], inputs.attention["retrieved"]
    assert isinstance(din, TargetAttention)
    assert isinstance(esu, MultiHeadTargetAttention)
    assert recent.sequences.segment_N is not None
    out = []
    for n in range(batch.num_impressions):
        t = tokens.features_NLD[n][:3].sum(0)
        pooled = torch.zeros(D, dtype=t.dtype)
        s = int(recent.sequences.segment_N[n])
        for h in recent.x_PD[int(recent.sequences.offsets_S1[s]) : int(recent.sequences.offsets_S1[s + 1])]:
            x = din.first(torch.cat([t, h, t - h, t * h])).relu()
            for layer in din.hidden:
                x = layer(x).relu()
            pooled = pooled + din.out(x) * h
        rows = slice(int(retrieved.sequences.offsets_S1[n]), int(retrieved.sequences.offsets_S1[n + 1]))
        assert retrieved.sequences.position_P[rows].tolist() == _found(by, batch, n)
        heads, width = [], D // H
        for head in range(H):
            at = slice(head * width, (head + 1) * width)
            w_k, w_v = esu.key_value.weight[:D][at], esu.key_value.weight[D:][at]
            q = esu.query.weight[at] @ t
            e = [torch.exp(q @ (w_k @ z) / math.sqrt(width)) for z in retrieved.x_PD[rows]]
            weighted = [a / sum(e) * (w_v @ z) for a, z in zip(e, retrieved.x_PD[rows], strict=True)]
            heads.append(sum(weighted, torch.zeros(width, dtype=t.dtype)))
        long = esu.out.weight @ torch.cat(heads)
        out.append(tower.mlp(torch.cat([tokens.features_NLD[n].flatten(), pooled, long])))
    return torch.stack(out)


@pytest.mark.parametrize("config", [HARD, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_formula(config: SIMConfig, seed: int) -> None:
    tower, batch = Scorer(config).tower, make_batch(random_log(seed, delay=seed), Filling.POINTWISE)
    assert isinstance(tower, MLPTower)
    assert config.tokens.retrieval is not None
    got, expected = tower(look_up(batch), batch), _by_loops(tower, batch, config.tokens.retrieval.by)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    wanted, weights = list(tower.parameters()), torch.randn_like(got)
    for ours, theirs in zip(
        torch.autograd.grad((got * weights).sum(), wanted),
        torch.autograd.grad((expected * weights).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


def test_time_between_behaviour_and_request_is_read() -> None:
    """With `use_age`, moving the request alone moves what is retrieved from long ago."""
    for use_age in (True, False):
        behaviour = HARD.tokens.behaviour.model_copy(update={"use_age": use_age})
        scorer = Scorer(HARD.model_copy(update={"tokens": HARD.tokens.model_copy(update={"behaviour": behaviour})}))
        batch = scorer.batch(random_log(6))
        later = replace(batch, impression_time=batch.impression_time + 9999)
        moved = (scorer(look_up(batch), later) - scorer(look_up(batch), batch)).abs().max() > 1e-9
        assert bool(moved) is use_age


@pytest.mark.parametrize("switch", ["use_action", "use_profile", "use_request", "use_counters"])
def test_each_switch_removes_its_input(switch: str) -> None:
    check_switch(HARD, switch)


@pytest.mark.parametrize("alone", [False, True], ids=["batch", "request"])
def test_flops(alone: bool) -> None:
    batch = make_batch(random_log(2, delay=1), Filling.POINTWISE)
    if alone:
        batch = request_batch(batch, int(batch.history_length.argmax()), candidates=5)
    assert_flops_match(HARD, SPEC, batch)


@pytest.mark.parametrize("config", [HARD, SOFT], ids=["hard", "soft"])
def test_edges(config: SIMConfig) -> None:
    check_edges(config)


def test_a_search_must_be_named() -> None:
    with pytest.raises(ValidationError, match=r"tokens\.retrieval names none; set it, by category for a hard search"):
        SIMConfig()
    with pytest.raises(ValidationError, match=r"heads is 4 and tokens\.width 6; choose a width that heads divide"):
        SIMConfig(tokens=HARD.tokens, heads=4)
