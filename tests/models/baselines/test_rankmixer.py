"""RankMixer against its formula in plain loops, its ablations, switches and empty batches."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.per_token import PerTokenGELU
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.baselines.rankmixer import RankMixerConfig, RankMixerLayer, RankMixerTower
from ctr_rec.models.tower import Filling
from tests.models.edges import check_edges, check_switch
from tests.models.streams import CHANNELS, SPEC, Scorer, look_up, make_batch, random_log

# Twelve tokens: a given width of 15 becomes 24, two numbers for each.
TOKENS, GIVEN, WIDTH, PART, INNER = 12, 15, 24, 2, 5
# A few impressions, as loops are slow; the newest, which have histories.
SHORT = replace(random_log(0), impressions=tuple(sorted(random_log(0).impressions, key=lambda i: i.request_time)[-3:]))
CONFIG = RankMixerConfig(
    tokens=TokenSettings(width=GIVEN, recent="all"), ffn=INNER, mlp=MLPSettings(hidden=(4,), dropout=0.0)
)


def _normed(x: Tensor, norm: nn.LayerNorm | None) -> Tensor:
    if norm is None:
        return x
    mean = sum(x) / len(x)
    variance = sum((v - mean) ** 2 for v in x) / len(x)
    return (x - mean) / (variance + norm.eps) ** 0.5 * norm.weight + norm.bias


def _ffn(layer: RankMixerLayer, t: int, x: Tensor) -> Tensor:
    if isinstance(layer.ffn, PerTokenGELU):
        into, out = layer.ffn.into, layer.ffn.out
        assert into.bias_LE is not None
        assert out.bias_LE is not None
        first, second = x @ into.weight_LDE[t] + into.bias_LE[t], (out.weight_LDE[t], out.bias_LE[t])
    else:
        shared_into, _, shared_out = layer.ffn
        first, second = shared_into.weight @ x + shared_into.bias, (shared_out.weight.T, shared_out.bias)
    gelu = torch.stack([v * 0.5 * (1 + torch.erf(v / math.sqrt(2))) for v in first])
    return gelu @ second[0] + second[1]


def _layer_by_loops(layer: RankMixerLayer, x: list[Tensor], config: RankMixerConfig) -> list[Tensor]:
    """Token by token: part h of every token makes token h."""
    if config.use_mixing:
        mixed = [torch.cat([x[t][h * PART : (h + 1) * PART] for t in range(TOKENS)]) for h in range(TOKENS)]
        joined = [m + own if config.use_residual else m for m, own in zip(mixed, x, strict=True)]
        x = [_normed(v, layer.norm_mixed) for v in joined]
    new = [_ffn(layer, t, v) for t, v in enumerate(x)]
    return [_normed(n + own if config.use_residual else n, layer.norm_out) for n, own in zip(new, x, strict=True)]


@pytest.mark.parametrize("off", [None, "use_mixing", "per_token_ffn", "use_residual", "use_norm"])
def test_equals_its_formula(off: str | None) -> None:
    config = CONFIG if off is None else CONFIG.model_copy(update={off: False})
    scorer = Scorer(config)
    tower = scorer.tower
    assert isinstance(tower, RankMixerTower)
    assert tower.widen is not None
    batch = scorer.batch(SHORT)
    embedded = look_up(batch)
    linear, expected = tower.mlp.layers[0], []
    for tokens in tower.inputs(embedded, batch):
        x = [token @ tower.widen.weight_LDE[t] for t, token in enumerate(tokens)]
        for layer in tower.layers:
            assert isinstance(layer, RankMixerLayer)
            x = _layer_by_loops(layer, x, config)
        expected.append((linear.weight @ torch.cat(x) + linear.bias).clamp(min=0))
    wanted, got = torch.stack(expected), tower(embedded, batch)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-11)
    weights, leaves = torch.randn_like(got), list(tower.parameters())
    ours = torch.autograd.grad((got * weights).sum(), leaves)
    for a, b in zip(ours, torch.autograd.grad((wanted * weights).sum(), leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("given", "width"), [(12, 12), (13, 24), (24, 24), (5, 12)])
def test_the_width_is_the_next_multiple_of_the_tokens(given: int, width: int) -> None:
    config = CONFIG.model_copy(update={"tokens": TokenSettings(width=given, recent="all")})
    tower = config.build(SPEC, tuple(CHANNELS))
    assert tower.width == width
    assert (tower.widen is None) is (given == width)


@pytest.mark.parametrize("per_token", [True, False])
def test_flops_are_counted_by_hand(per_token: bool) -> None:
    tower = CONFIG.model_copy(update={"per_token_ffn": per_token}).build(SPEC, tuple(CHANNELS))
    batch = make_batch(random_log(0), Filling.POINTWISE)
    per_row = TOKENS * GIVEN * WIDTH + 2 * TOKENS * 2 * WIDTH * INNER + TOKENS * WIDTH * 4
    assert tower.flops(batch) == tower.inputs.flops(batch) + 2 * batch.num_impressions * per_row


@pytest.mark.parametrize("switch", ["use_action", "use_profile", "use_request", "use_counters", "use_time"])
def test_each_switch_removes_its_input(switch: str) -> None:
    check_switch(CONFIG, switch)


@pytest.mark.parametrize("off", [None, "use_mixing", "per_token_ffn", "use_norm"])
def test_edges(off: str | None) -> None:
    check_edges(CONFIG if off is None else CONFIG.model_copy(update={off: False}))
