"""AutoInt against its formula in plain loops, its ablations, switches and empty batches."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ctr_rec.errors import ConfigError
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.baselines.autoint import AutoIntConfig, AutoIntTower, InteractingLayer
from ctr_rec.models.tower import Filling
from tests.models.edges import check_edges, check_switch
from tests.models.streams import CHANNELS, SPEC, Scorer, look_up, make_batch, random_log

WIDTH, HEADS, E = 6, 3, 2
# A few impressions, as loops are slow; the newest, which have histories.
SHORT = replace(random_log(0), impressions=tuple(sorted(random_log(0).impressions, key=lambda i: i.request_time)[-3:]))
CONFIG = AutoIntConfig(
    tokens=TokenSettings(width=WIDTH, recent="all"), heads=HEADS, mlp=MLPSettings(hidden=(5,), dropout=0.0)
)


def _layer_by_loops(layer: InteractingLayer, x: list[Tensor], config: AutoIntConfig) -> list[Tensor]:
    """Token by token and head by head."""
    w_query, w_key, w_value = layer.query_key_value.weight.split(WIDTH)
    q, k, v = ([(w @ token).split(E) for token in x] for w in (w_query, w_key, w_value))
    out = []
    for i in range(len(x)):
        heads = []
        for h in range(HEADS):
            scores = [q[i][h].dot(k[j][h]) for j in range(len(x))]
            scores = [s / math.sqrt(E) for s in scores] if config.use_scale else scores
            total = sum(s.exp() for s in scores)
            heads.append(sum((s.exp() / total * v[j][h] for j, s in enumerate(scores)), torch.zeros(E)))
        attended = torch.cat(heads)
        if layer.residual is not None:
            attended = attended + layer.residual.weight @ x[i]
        out.append(attended.clamp(min=0))
    return out


@pytest.mark.parametrize(
    "changed",
    [{}, {"use_scale": True}, {"use_residual": False}, {"mlp": None}, {"layers": 3}],
    ids=["paper", "scaled", "no residual", "alone", "deep"],
)
def test_equals_its_formula(changed: dict[str, object]) -> None:
    config = CONFIG.model_copy(update=changed)
    scorer = Scorer(config)
    tower = scorer.tower
    assert isinstance(tower, AutoIntTower)
    batch = scorer.batch(SHORT)
    embedded = look_up(batch)
    expected = []
    for tokens in tower.inputs(embedded, batch):
        x = list(tokens)
        for layer in tower.layers:
            assert isinstance(layer, InteractingLayer)
            x = _layer_by_loops(layer, x, config)
        parts = x
        if tower.mlp is not None:
            linear = tower.mlp.layers[0]
            parts = [*x, (linear.weight @ torch.cat(list(tokens)) + linear.bias).clamp(min=0)]
        expected.append(torch.cat(parts))
    wanted = torch.stack(expected)
    got = tower(embedded, batch)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
    assert got.shape[1] == tower.out_width == 12 * WIDTH + (0 if tower.mlp is None else 5)
    weights, leaves = torch.randn_like(got), list(tower.parameters())
    ours = torch.autograd.grad((got * weights).sum(), leaves)
    for a, b in zip(ours, torch.autograd.grad((wanted * weights).sum(), leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


@pytest.mark.parametrize("use_residual", [True, False])
def test_flops_are_counted_by_hand(use_residual: bool) -> None:
    tower = CONFIG.model_copy(update={"use_residual": use_residual}).build(SPEC, tuple(CHANNELS))
    batch = make_batch(random_log(0), Filling.POINTWISE)
    projections = 12 * (4 if use_residual else 3) * WIDTH * WIDTH
    pairs = 12 * 12 * HEADS * (E + E)
    per_row = 2 * (projections + pairs) + 12 * WIDTH * 5
    assert tower.flops(batch) == tower.inputs.flops(batch) + 2 * batch.num_impressions * per_row


@pytest.mark.parametrize("switch", ["use_action", "use_profile", "use_request", "use_counters", "use_time"])
def test_each_switch_removes_its_input(switch: str) -> None:
    check_switch(CONFIG, switch)


@pytest.mark.parametrize("alone", [False, True])
def test_edges(alone: bool) -> None:
    check_edges(CONFIG.model_copy(update={"mlp": None}) if alone else CONFIG)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected tower.heads to divide tower.tokens.width, got 4 heads at width 6"):
        CONFIG.model_copy(update={"heads": 4}).build(SPEC, tuple(CHANNELS))
