"""BST against its formula in plain loops, FLOPs, empty batches."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from ctr_rec.batch.batch import Batch
from ctr_rec.batch.request import request_batch
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.retrieval import RetrievalSettings, Search
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.baselines.bst import BSTConfig, BSTLayer, BSTTower
from ctr_rec.models.tower import Filling
from tests.models.edges import check_edges
from tests.models.flops import assert_flops_match
from tests.models.streams import SPEC, Scorer, look_up, make_batch, random_log

D, H = 6, 2
SMALL = BSTConfig(
    tokens=TokenSettings(width=D, recent="all"),
    heads=H,
    ffn=5,
    dropout=0.0,
    mlp=MLPSettings(hidden=(4, 3), dropout=0.0),
)
BY_GENRE = RetrievalSettings(channel="all", most=2, by=Search.CATEGORY, feature="genres")
CONFIGS = {
    "one block": SMALL,
    "three blocks": SMALL.model_copy(update={"layers": 3, "heads": 3}),
    "retrieved": SMALL.model_copy(update={"tokens": TokenSettings(width=D, recent="liked", retrieval=BY_GENRE)}),
}


def _norm(norm: nn.LayerNorm, row: Tensor) -> Tensor:
    centred = row - row.mean()
    return centred / (centred.square().mean() + norm.eps).sqrt() * norm.weight + norm.bias


def _block(layer: BSTLayer, x: list[Tensor], heads: int) -> list[Tensor]:
    width, after = D // heads, []
    w_q, w_k, w_v = layer.attention.query_key_value.weight.split(D)
    into, _, out = layer.ffn
    assert isinstance(into, nn.Linear)
    assert isinstance(out, nn.Linear)
    for row in x:
        seen = []
        for head in range(heads):
            at = slice(head * width, (head + 1) * width)
            e = [torch.exp((w_q[at] @ row) @ (w_k[at] @ key) / math.sqrt(width)) for key in x]
            seen.append(sum(a / sum(e) * (w_v[at] @ key) for a, key in zip(e, x, strict=True)))
        s = _norm(layer.norm, row + layer.attention.out.weight @ torch.cat(seen))
        inner = into.weight @ s + into.bias
        after.append(_norm(layer.ffn_norm, s + out.weight @ torch.where(inner > 0, inner, 0.01 * inner) + out.bias))
    return after


def _by_loops(tower: BSTTower, batch: Batch) -> Tensor:
    tokens, out = tower.inputs(look_up(batch), batch), []
    for n in range(batch.num_impressions):
        x = []
        for found in tokens.behaviours.values():
            of = found.sequences
            s = n if of.segment_N is None else int(of.segment_N[n])
            x += list(found.x_PD[int(of.offsets_S1[s]) : int(of.offsets_S1[s + 1])])
        features = tokens.features_NLD[n]
        x.append(features[0] + features[1] + features[2])
        for layer in tower.layers:
            assert isinstance(layer, BSTLayer)
            x = _block(layer, x, tower.config.heads)
        *behaviours, candidate = x
        mean = sum(behaviours, torch.zeros_like(candidate)) / max(1, len(behaviours))
        out.append(tower.head.mlp(torch.cat([features.flatten(), candidate, mean])))
    return torch.stack(out)


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_the_formula(name: str) -> None:
    tower = Scorer(CONFIGS[name]).tower
    assert isinstance(tower, BSTTower)
    batch = make_batch(random_log(0, num_users=3, num_events=7), Filling.POINTWISE)
    got, expected = tower(look_up(batch), batch), _by_loops(tower, batch)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-11)
    wanted, weights = list(tower.parameters()), torch.randn_like(got)
    for ours, theirs in zip(
        torch.autograd.grad((got * weights).sum(), wanted),
        torch.autograd.grad((expected * weights).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_dropout_drops_in_training_alone() -> None:
    scorer = Scorer(SMALL.model_copy(update={"dropout": 0.5}))
    batch = scorer.batch(random_log(0))
    first, second = (scorer(look_up(batch), batch) for _ in range(2))
    assert torch.equal(first, second)
    scorer.train()
    assert (scorer(look_up(batch), batch) - first).abs().max() > 1e-6


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("alone", [False, True], ids=["batch", "request"])
def test_flops(name: str, alone: bool) -> None:
    batch = make_batch(random_log(2, delay=1), Filling.POINTWISE)
    if alone:
        batch = request_batch(batch, int(batch.history_length.argmax()), candidates=5)
    assert_flops_match(CONFIGS[name], SPEC, batch)


@pytest.mark.parametrize("name", ["one block", "retrieved"])
def test_edges(name: str) -> None:
    check_edges(CONFIGS[name])


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"heads is 4 and tokens\.width 6; choose a width that heads divide"):
        BSTConfig(tokens=TokenSettings(width=6), heads=4)
