"""OneTrans in its three ways against its formula, one impression at a time; pyramid, causality, empty batches."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from ctr_rec.batch.batch import Batch
from ctr_rec.errors import ConfigError
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.retrieval import RetrievalSettings
from ctr_rec.layers.target_attention import TargetAttention, TargetAttentionSettings
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.baselines.onetrans import MixedLinear, OneTransConfig, OneTransTower, Retrieved
from ctr_rec.models.tower import Filling
from tests.models.edges import check_edges
from tests.models.streams import CHANNELS, CONTENT, SPEC, Scorer, look_up, make_batch, random_log

D, H = 6, 2
SMALL = OneTransConfig(
    tokens=TokenSettings(width=D, recent="all"),
    layers=2,
    heads=H,
    ffn=5,
    span=3,
    din=TargetAttentionSettings(hidden=(4,)),
    mlp=MLPSettings(hidden=(4,), dropout=0.0),
)
RETRIEVAL = RetrievalSettings(channel="all", most=2, feature="content")
TOKENS = TokenSettings(width=D, recent="liked", content="content", retrieval=RETRIEVAL)
CONFIGS = {
    "recent alone": SMALL,
    "no pyramid": SMALL.model_copy(update={"pyramid": False}),
    "shared": SMALL.model_copy(update={"mixed": False}),
    "deep": SMALL.model_copy(update={"layers": 3, "top": 2}),
    **{way.value: SMALL.model_copy(update={"tokens": TOKENS, "retrieved": way}) for way in Retrieved},
}


def _tower(config: OneTransConfig) -> OneTransTower:
    tower = Scorer(config, CONTENT).tower
    assert isinstance(tower, OneTransTower)
    return tower


def _batch() -> Batch:
    return make_batch(random_log(0, num_users=3, num_events=6), Filling.POINTWISE, CONTENT)


def _linear(layer: MixedLinear, row: Tensor, token: int | None) -> Tensor:
    """token: which NS token, None for one of S."""
    if token is None or layer.ns is None:
        return layer.s(row)
    out = row @ layer.ns.weight_LDE[token]
    return out if layer.ns.bias_LE is None else out + layer.ns.bias_LE[token]


def _norm(norm: nn.RMSNorm, row: Tensor) -> Tensor:
    return row / (row.square().mean() + 1e-6).sqrt() * norm.weight


def _one_token(tower: OneTransTower, features: Tensor, rows: Tensor) -> Tensor:
    if tower.config.retrieved is Retrieved.POOLED:
        return rows.sum(0) / max(1, len(rows))
    unit = tower.din["retrieved"]
    assert isinstance(unit, TargetAttention)
    names = tower.inputs.names
    t = sum(x for name, x in zip(names, features, strict=True) if name.startswith("candidate/"))
    assert isinstance(t, Tensor)
    pooled = torch.zeros(D, dtype=features.dtype)
    for h in rows:
        pooled = pooled + unit.out(unit.first(torch.cat([t, h, t - h, t * h])).relu()) * h
    return pooled


def _by_loops(tower: OneTransTower, batch: Batch) -> Tensor:
    """X = [S; NS] of each impression alone; a loop over queries, one over the keys up to each."""
    config, out = tower.config, []
    tokens = tower.inputs(look_up(batch, CONTENT), batch)
    recent, retrieved = tokens.behaviours[config.tokens.recent], tokens.behaviours.get("retrieved")
    assert recent.sequences.segment_N is not None
    bounds, segments = recent.sequences.offsets_S1.tolist(), recent.sequences.segment_N.tolist()
    for n in range(batch.num_impressions):
        s = [*recent.x_PD[bounds[segments[n]] : bounds[segments[n] + 1]]]
        ns = [*tokens.features_NLD[n]]
        if retrieved is not None:
            rows = retrieved.x_PD[slice(*retrieved.sequences.offsets_S1[n : n + 2].tolist())]
            if config.retrieved is Retrieved.FULL:
                s += [*rows]
            else:
                ns = [_one_token(tower, tokens.features_NLD[n], rows), *ns]
        for number, layer in enumerate(tower._layers(), 1):
            x, which = [*s, *ns], [None] * len(s) + list(range(len(ns)))
            joint = [_linear(layer.qkv, _norm(layer.norm, r), w) for r, w in zip(x, which, strict=True)]
            q, k, v = torch.stack(joint).view(len(x), 3, H, D // H).unbind(1)
            kept = (
                len(s)
                if not config.pyramid
                else min(len(s), config.span - (config.span - config.top) * number // config.layers)
            )
            after = []
            for i in range(len(s) - kept, len(x)):
                e_XH = torch.stack([((q[i] * k[j]).sum(-1) / math.sqrt(D / H)).exp() for j in range(i + 1)])
                attended = sum(e_XH[j, :, None] * v[j] for j in range(i + 1)) / e_XH.sum(0)[:, None]
                z = x[i] + layer.out(attended.flatten())
                inner = _linear(layer.ffn_in, _norm(layer.ffn_norm, z), which[i])
                after.append(z + _linear(layer.ffn_out, nn.functional.gelu(inner), which[i]))
            s, ns = after[:kept], after[kept:]
        mean = torch.stack(s).mean(0) if s else torch.zeros(D, dtype=ns[0].dtype)
        out.append(tower.head.mlp(torch.cat([*ns, mean])))
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


def test_the_pyramid_falls_evenly_from_span_to_top() -> None:
    config = OneTransConfig(layers=6, span=50, top=2)
    assert [config.kept(layer) for layer in range(1, 7)] == [42, 34, 26, 18, 10, 2]
    assert config.model_copy(update={"pyramid": False}).kept(1) is None


def test_pyramid_and_mixed_weights_switch() -> None:
    """Off, the score is another; with shared weights no parameter is as long as the list of tokens but the head's."""
    batch = _batch()
    base, flat = (_tower(CONFIGS[name]) for name in ("recent alone", "no pyramid"))
    flat.load_state_dict(base.state_dict())
    assert (base(look_up(batch, CONTENT), batch) - flat(look_up(batch, CONTENT), batch)).abs().max() > 1e-6
    shared = _tower(CONFIGS["shared"])
    assert not any(name.startswith("layers.") for name in shared.axes())
    count = {tower: sum(p.numel() for p in tower.layers.parameters()) for tower in (base, shared)}
    per_layer = len(base.names) * (3 * D * D + 2 * D * 5 + D + 5)
    assert count[base] - count[shared] == 2 * per_layer


@pytest.mark.parametrize("name", ["recent alone", "full"])
def test_flops_count_what_each_layer_keeps(name: str) -> None:
    tower, batch = _tower(CONFIGS[name]), _batch()
    found, tokens, n = tower.inputs.sequences(batch), len(tower.names), batch.num_impressions
    recent = found[tower.config.tokens.recent]
    assert recent.segment_N is not None
    lengths = [b - a for a, b in pairwise(recent.offsets_S1.tolist())]
    readers = recent.segment_N.tolist()
    if name == "full":
        own = [b - a for a, b in pairwise(found["retrieved"].offsets_S1.tolist())]
        lengths, readers = [lengths[s] + more for s, more in zip(readers, own, strict=True)], list(range(n))
    expected = n * 2 * (tokens + 1) * D * 4
    for keep in (2, 1):
        for length in lengths:
            kept = min(length, keep)
            expected += 2 * (2 * length + 2 * kept) * D * D + 2 * kept * 2 * D * 5
            expected += 2 * 2 * D * sum(range(length - kept + 1, length + 1))
        expected += n * tokens * (2 * 4 * D * D + 2 * 2 * D * 5)
        expected += 2 * 2 * D * sum(tokens * lengths[s] + tokens * (tokens + 1) // 2 for s in readers)
        lengths = [min(length, keep) for length in lengths]
    assert tower.flops(batch) == tower.inputs.flops(batch) + expected


def test_flops_of_din_are_its_pairs() -> None:
    tower, batch = _tower(CONFIGS["din"]), _batch()
    pooled = _tower(CONFIGS["pooled"])
    read = len(tower.inputs.sequences(batch)["retrieved"].position_P)
    unit = 2 * (D * 4 * (batch.num_impressions + read) + read * (D * 4 + 4 + D))
    assert tower.flops(batch) == pooled.flops(batch) + unit


def test_what_would_have_no_effect_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tower\.retrieved is 'din', which would have no effect without retrieved"):
        SMALL.model_copy(update={"retrieved": Retrieved.DIN}).build(SPEC, tuple(CHANNELS))
    with pytest.raises(ValidationError, match="top is 4 and span 3; a pyramid narrows: set top to at most span"):
        OneTransConfig(span=3, top=4)
    with pytest.raises(ValidationError, match=r"heads is 4 and tokens\.width 6; choose a width that heads divide"):
        OneTransConfig(tokens=TokenSettings(width=6), heads=4)


@pytest.mark.parametrize("name", ["recent alone", "no pyramid", "shared"])
def test_edges(name: str) -> None:
    check_edges(CONFIGS[name])


@pytest.mark.parametrize("way", list(Retrieved))
def test_edges_with_retrieved_behaviours(way: Retrieved) -> None:
    retrieval = RetrievalSettings(channel="liked", most=2, by="id", feature="item")
    tokens = TokenSettings(width=D, recent="all", retrieval=retrieval)
    check_edges(SMALL.model_copy(update={"tokens": tokens, "retrieved": way}))
