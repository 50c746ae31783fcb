"""MTGR against its formula, one impression at a time with plain loops; norms, retrieved behaviours, empty batches."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import silu

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.retrieval import RetrievalSettings
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.baselines.hstu import AttentionNorm
from ctr_rec.models.baselines.mtgr import GroupNorm, MTGRConfig, MTGRTower
from ctr_rec.models.tower import Filling
from tests.models.edges import check_edges
from tests.models.streams import CHANNELS, CONTENT, ITEMS_ONLY, Scorer, look_up, make_batch, random_log

D, H = 6, 2
SMALL = MTGRConfig(
    tokens=TokenSettings(width=D, recent="all"),
    layers=2,
    heads=H,
    norm_constant=3.0,
    dropout=0.0,
    mlp=MLPSettings(hidden=(4,), dropout=0.0),
)
RETRIEVED = TokenSettings(
    width=D, recent="liked", content="content", retrieval=RetrievalSettings(channel="all", most=2, feature="content")
)
CONFIGS = {
    "constant": SMALL,
    "visible count": SMALL.model_copy(update={"norm": AttentionNorm.VISIBLE_COUNT}),
    "one norm": SMALL.model_copy(update={"group_norm": False}),
    "retrieved": SMALL.model_copy(update={"tokens": RETRIEVED}),
}


def _tower(config: MTGRConfig) -> MTGRTower:
    tower = Scorer(config, CONTENT).tower
    assert isinstance(tower, MTGRTower)
    return tower


def _batch() -> Batch:
    return make_batch(random_log(0, num_users=3, num_events=6), Filling.POINTWISE, CONTENT)


def _norm(norm: GroupNorm, row: Tensor, group: str) -> Tensor:
    at = norm.groups.index(group) if len(norm.groups) > 1 else 0
    centred = row - row.mean()
    return centred / (centred.square().mean() + 1e-6).sqrt() * norm.weight_GD[at] + norm.bias_GD[at]


def _by_loops(tower: MTGRTower, batch: Batch) -> Tensor:
    """X = [B_u; N] of each impression alone; a loop over queries, one over the keys that each sees."""
    config, embedded, out = tower.config, look_up(batch, CONTENT), []
    tokens = tower.inputs(embedded, batch)
    recent, retrieved = tokens.behaviours[config.tokens.recent], tokens.behaviours.get("retrieved")
    assert recent.sequences.segment_N is not None
    bounds, segments = recent.sequences.offsets_S1.tolist(), recent.sequences.segment_N.tolist()
    for n in range(batch.num_impressions):
        x = [*recent.x_PD[bounds[segments[n]] : bounds[segments[n] + 1]], *tokens.features_NLD[n]]
        num_b = len(x) - len(tower.inputs.names)
        groups = ["behaviours"] * num_b + [name.split("/")[0] for name in tower.inputs.names]
        if retrieved is not None:
            rows = retrieved.x_PD[slice(*retrieved.sequences.offsets_S1[n : n + 2].tolist())]
            x.append(rows.sum(0) / max(1, len(rows)))
            groups.append("pooled")
        for layer in tower._layers():
            joint = [silu(layer.qkvu(_norm(layer.norm_in, r, g))) for r, g in zip(x, groups, strict=True)]
            q, k, v, u = torch.stack(joint).view(len(x), 4, H, D // H).unbind(1)
            after = []
            for i, row in enumerate(x):
                seen = range(num_b) if i < num_b else range(len(x))
                attended = torch.zeros(H, D // H, dtype=row.dtype)
                for j in seen:
                    attended = attended + silu((q[i] * k[j]).sum(-1) / math.sqrt(D / H)).unsqueeze(-1) * v[j]
                attended = attended / (3.0 if config.norm is AttentionNorm.CONSTANT else len(seen))
                after.append(row + layer.out(_norm(layer.norm_out, (attended * u[i]).flatten(), groups[i])))
            x = after
        mean = torch.stack(x[:num_b]).mean(0) if num_b else torch.zeros(D, dtype=x[0].dtype)
        out.append(tower.head.mlp(torch.cat([*x[num_b:], mean])))
    return torch.stack(out)


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_the_formula(name: str) -> None:
    tower, batch = _tower(CONFIGS[name]), _batch()
    got, expected = tower(look_up(batch, CONTENT), batch), _by_loops(tower, batch)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    wanted, weights = list(tower.parameters()), torch.randn_like(got)
    for ours, theirs in zip(
        torch.autograd.grad((got * weights).sum(), wanted),
        torch.autograd.grad((expected * weights).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


def test_groups_are_origins_and_behaviours() -> None:
    origins = ("candidate", "request", "counter", "user", "time", "pooled", "behaviours")
    assert _tower(CONFIGS["retrieved"]).groups == origins
    assert _tower(CONFIGS["one norm"]).groups == ("all",)


def test_the_sequence_is_the_same_for_every_candidate() -> None:
    """B_u's states after the last layer do not depend on who reads them: their gradient to feature tokens is zero."""
    tower, batch = _tower(SMALL), _batch()
    tokens = tower.inputs(look_up(batch, CONTENT), batch)
    sight = tower._sight(tokens.behaviours["all"].sequences)
    n_NLD, b_PD = tokens.features_NLD.detach().requires_grad_(), tokens.behaviours["all"].x_PD
    n, b = n_NLD, b_PD
    for layer in tower._layers():
        n, b = layer(n, b, sight)
    (grad,) = torch.autograd.grad(b.sum() + 0 * n.sum(), n_NLD)
    assert not grad.any()


@pytest.mark.parametrize("name", ["constant", "retrieved"])
def test_flops_count_distinct_sequences_once(name: str) -> None:
    tower, batch = _tower(CONFIGS[name]), _batch()
    tokens = len(tower.names)
    sequences = tower.inputs.sequences(batch)[tower.config.tokens.recent]
    assert sequences.segment_N is not None
    lengths = [b - a for a, b in pairwise(sequences.offsets_S1.tolist())]
    dense = 2 * 5 * D * D
    expected = sum(2 * (length * dense + 4 * D * length**2) for length in lengths)
    for segment in sequences.segment_N.tolist():
        expected += 2 * (tokens * dense + 4 * D * tokens * (tokens + lengths[segment])) + 2 * (tokens + 1) * D * 4
    assert tower.flops(batch) == tower.inputs.flops(batch) + expected


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"heads is 4 and tokens\.width 6; choose a width that heads divide"):
        MTGRConfig(tokens=TokenSettings(width=6), heads=4)


@pytest.mark.parametrize("name", ["constant", "visible count", "one norm"])
def test_edges(name: str) -> None:
    check_edges(CONFIGS[name])


def test_items_alone() -> None:
    tower = SMALL.build(ITEMS_ONLY, tuple(CHANNELS))
    assert tower.groups == ("candidate", "time", "behaviours")
