"""HiFormer against its formula in plain loops, in both forms, with and without a task token."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.per_token import PerTokenLinear
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.baselines.hiformer import CompositeProjection, HiFormerConfig, HiFormerLayer, HiFormerTower
from ctr_rec.models.tower import Filling
from tests.models.edges import check_edges, check_switch
from tests.models.streams import CHANNELS, SPEC, Scorer, look_up, make_batch, random_log

TOKENS, WIDTH, HEADS, KEY, VALUE, INNER = 12, 5, 2, 3, 4, 6
# A few impressions, as loops are slow; the newest, which have histories.
SHORT = replace(random_log(0), impressions=tuple(sorted(random_log(0).impressions, key=lambda i: i.request_time)[-3:]))
CONFIG = HiFormerConfig(
    tokens=TokenSettings(width=WIDTH, recent="all"),
    heads=HEADS,
    key_width=KEY,
    value_width=VALUE,
    ffn=INNER,
    key_rank=2,
    value_rank=3,
    mlp=MLPSettings(hidden=(4,), dropout=0.0),
)
FORMS: dict[str, dict[str, object]] = {
    "heterogeneous": {},
    "task token": {"task_token": True},
    "composite": {"composite": True},
    "full composite": {"composite": True, "key_rank": None, "value_rank": None},
    "composite with task token": {"composite": True, "task_token": True},
    "deep": {"layers": 3},
}


def _normed(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    mean = sum(x) / len(x)
    variance = sum((v - mean) ** 2 for v in x) / len(x)
    return (x - mean) / (variance + norm.eps) ** 0.5 * norm.weight + norm.bias


def _projected(part: PerTokenLinear | CompositeProjection, e: list[Tensor], h: int, width: int) -> list[Tensor]:
    """Head h of each token of `part`; the heterogeneous one reads that token alone, the composite one all."""
    if isinstance(part, PerTokenLinear):
        own = e[-len(part.names) :]
        return [token @ part.weight_LDE[i][:, h * width : (h + 1) * width] for i, token in enumerate(own)]
    matrix = part.up_HRE[h]
    if part.down is not None:
        rank = matrix.shape[0]
        matrix = part.down.weight[h * rank : (h + 1) * rank].T @ matrix
    return list((torch.cat(e) @ matrix).split(width))


def _layer_by_loops(layer: HiFormerLayer, x: list[Tensor]) -> list[Tensor]:
    e = [_normed(token, layer.norm) for token in x]
    asking = x[-len(layer.queries) :]
    heads: list[list[Tensor]] = [[] for _ in asking]
    for h in range(HEADS):
        q, k = _projected(layer.query, e, h, KEY), _projected(layer.key, e, h, KEY)
        v = _projected(layer.value, e, h, VALUE)
        for i, of_query in enumerate(q):
            scores = [of_query.dot(of_key) / math.sqrt(KEY) for of_key in k]
            total = sum(s.exp() for s in scores)
            heads[i].append(sum((s.exp() / total * v[j] for j, s in enumerate(scores)), torch.zeros(VALUE)))
    out = []
    into, back = layer.ffn.into, layer.ffn.out
    assert into.bias_LE is not None
    assert back.bias_LE is not None
    for i, own in enumerate(asking):
        y = own + torch.cat(heads[i]) @ layer.out.weight_LDE[i]
        first = _normed(y, layer.norm_ffn) @ into.weight_LDE[i] + into.bias_LE[i]
        gelu = torch.stack([u * 0.5 * (1 + torch.erf(u / math.sqrt(2))) for u in first])
        out.append(y + gelu @ back.weight_LDE[i] + back.bias_LE[i])
    return out


@pytest.mark.parametrize("form", FORMS)
def test_equals_its_formula(form: str) -> None:
    scorer = Scorer(CONFIG.model_copy(update=FORMS[form]))
    tower = scorer.tower
    assert isinstance(tower, HiFormerTower)
    batch = scorer.batch(SHORT)
    embedded = look_up(batch)
    linear, expected = tower.mlp.layers[0], []
    for tokens in tower.inputs(embedded, batch):
        x = list(tokens) if tower.task_D is None else [*tokens, tower.task_D]
        for layer in tower.layers:
            assert isinstance(layer, HiFormerLayer)
            x = _layer_by_loops(layer, x)
        assert len(x) == (TOKENS if tower.task_D is None else 1)
        expected.append((linear.weight @ torch.cat(x) + linear.bias).clamp(min=0))
    wanted, got = torch.stack(expected), tower(embedded, batch)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-11)
    weights, leaves = torch.randn_like(got), list(tower.parameters())
    ours = torch.autograd.grad((got * weights).sum(), leaves)
    for a, b in zip(ours, torch.autograd.grad((wanted * weights).sum(), leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_flops_are_counted_by_hand(form: str) -> None:
    config = CONFIG.model_copy(update=FORMS[form])
    tower = config.build(SPEC, tuple(CHANNELS))
    batch = make_batch(random_log(0), Filling.POINTWISE)
    tokens = TOKENS + config.task_token
    per_row = (1 if config.task_token else TOKENS) * WIDTH * 4
    for number in range(config.layers):
        asking = 1 if config.task_token and number == config.layers - 1 else tokens
        for out, width, rank in (
            (asking, KEY, config.key_rank),
            (tokens, KEY, config.key_rank),
            (tokens, VALUE, config.value_rank),
        ):
            if not config.composite:
                per_row += out * WIDTH * HEADS * width
            elif rank is None:
                per_row += HEADS * tokens * WIDTH * out * width
            else:
                per_row += HEADS * rank * (tokens * WIDTH + out * width)
        per_row += asking * tokens * HEADS * (KEY + VALUE)
        per_row += asking * (HEADS * VALUE * WIDTH + 2 * WIDTH * INNER)
    assert tower.flops(batch) == tower.inputs.flops(batch) + 2 * batch.num_impressions * per_row


@pytest.mark.parametrize("switch", ["use_action", "use_profile", "use_request", "use_counters", "use_time"])
def test_each_switch_removes_its_input(switch: str) -> None:
    check_switch(CONFIG, switch)


@pytest.mark.parametrize("form", FORMS)
def test_edges(form: str) -> None:
    check_edges(CONFIG.model_copy(update=FORMS[form]))
