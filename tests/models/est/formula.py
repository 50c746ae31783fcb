"""EST written as its paper prints it: one impression, one token, one head at a time, in float64; and our packed one.

Takes a tower's weights and the tokens that its input makes, and nothing else of it.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctr_rec.batch.batch import Batch, Jagged
from ctr_rec.layers.behaviours import BehaviourTokens
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.token_inputs import Tokens
from ctr_rec.models.est.layer import ESTLayer
from ctr_rec.models.est.packed import PackedESTConfig, PackedESTTower
from ctr_rec.models.est.tower import ESTTower


def formula(tower: ESTTower, tokens: Tokens, batch: Batch) -> Tensor:
    """[N, out_width]."""
    rows = [_impression(tower, tokens, batch, n) for n in range(batch.num_impressions)]
    return torch.stack(rows)


def _impression(tower: ESTTower, tokens: Tokens, batch: Batch, n: int) -> Tensor:
    config = tower.config
    features = list(tokens.features_NLD[n])
    behaviours, contents = [], []
    for found in tokens.behaviours.values():
        of = found.sequences
        s = n if of.segment_N is None else int(of.segment_N[n])
        places = range(int(of.offsets_S1[s]), int(of.offsets_S1[s + 1]))
        behaviours.append([found.x_PD[p] for p in places])
        items = [int(batch.event_item[of.position_P[p]]) for p in places]
        contents.append([batch.items.vectors["content"][i] for i in items])
    for layer in tower.layers:
        assert isinstance(layer, ESTLayer)
        normed_n = [_norm(layer.norm_n, x) for x in features]
        normed_b = [[_norm(layer.norm_b, x) for x in rows] for rows in behaviours]
        every = [x for rows in normed_b for x in rows]
        features = [x + _lca(layer, i, normed_n[i], every) for i, x in enumerate(features)]
        if config.csa:
            behaviours = [
                [x + _csa(i, of, content, config.neighbours) for i, x in enumerate(rows)]
                for rows, of, content in zip(behaviours, normed_b, contents, strict=True)
            ]
        features = [x + _ffn_of_token(layer, i, _norm(layer.norm_n_ffn, x)) for i, x in enumerate(features)]
        behaviours = [[x + _ffn(layer, _norm(layer.norm_b_ffn, x)) for x in rows] for rows in behaviours]
    every = [x for rows in behaviours for x in rows]
    mean = sum(every, torch.zeros_like(features[0])) / max(1, len(every))
    return tower.head.mlp(torch.cat([*features, mean]))


def packed_formula(tower: PackedESTTower, embedded: Embedded, batch: Batch, histories: dict[str, Jagged]) -> Tensor:
    """[N, out_width]. histories: what impressions see, by channel, from elsewhere than the tower."""
    config = tower.config
    assert isinstance(config, PackedESTConfig)
    recent = tower.tokens.maker(config.tokens.recent)
    events = tower.tokens.event_vectors(embedded, batch)
    stream = [list(recent.without_places(events, torch.arange(batch.num_events)))]
    contents = [batch.items.vectors["content"][int(i)] for i in batch.event_item]
    windows = [range(max(_start(batch, t), int(e) - config.window), int(e)) for t, e in enumerate(batch.event_end)]
    for layer in tower.layers:
        assert isinstance(layer, ESTLayer)
        rows = stream[-1]
        normed, now = [_norm(layer.norm_b, x) for x in rows], list(rows)
        if config.csa:
            for t, window in enumerate(windows):
                order = list(reversed(window))  # `_csa` takes the first of equals, the rule the later
                near = _csa(order.index(t), [normed[j] for j in order], [contents[j] for j in order], config.neighbours)
                now[t] = now[t] + near
        stream.append([x + _ffn(layer, _norm(layer.norm_b_ffn, x)) for x in now])
    batch = replace(batch, histories=histories)
    tokens = tower.tokens(embedded, batch)
    out = []
    for n in range(batch.num_impressions):
        features = list(tokens.features_NLD[n])
        begin, end = (int(histories[config.tokens.recent].offsets[n + i]) for i in (0, 1))
        seen = histories[config.tokens.recent].values[begin:end].tolist()
        retrieved, of = [], []
        if "retrieved" in tokens.behaviours:
            found = tokens.behaviours["retrieved"]
            places = range(*(int(found.sequences.offsets_S1[n + i]) for i in (0, 1)))
            retrieved = [found.x_PD[p] for p in places]
            of = [contents[int(found.sequences.position_P[p])] for p in places]
        for depth, layer in enumerate(tower.layers):
            assert isinstance(layer, ESTLayer)
            normed_n, normed_r = [_norm(layer.norm_n, x) for x in features], [_norm(layer.norm_b, x) for x in retrieved]
            read = [_norm(layer.norm_b, stream[depth][t]) + _place(recent, batch, seen, t) for t in seen]
            features = [x + _lca(layer, i, normed_n[i], [*read, *normed_r]) for i, x in enumerate(features)]
            if config.csa:
                retrieved = [x + _csa(i, normed_r, of, config.neighbours) for i, x in enumerate(retrieved)]
            features = [x + _ffn_of_token(layer, i, _norm(layer.norm_n_ffn, x)) for i, x in enumerate(features)]
            retrieved = [x + _ffn(layer, _norm(layer.norm_b_ffn, x)) for x in retrieved]
        every = [*(stream[-1][t] for t in seen), *retrieved]
        mean = sum(every, torch.zeros_like(features[0])) / max(1, len(every))
        out.append(tower.head.mlp(torch.cat([*features, mean])))
    return torch.stack(out)


def _start(batch: Batch, event: int) -> int:
    return max(int(b) for b in batch.event_offsets if int(b) <= event)


def _place(recent: BehaviourTokens, batch: Batch, seen: list[int], event: int) -> Tensor:
    """What an event's order and age say to this reader."""
    assert recent.order_OD is not None
    assert recent.age_AD is not None
    order = min(len(seen) - 1 - seen.index(event), len(recent.order_OD) - 1)
    seconds = int(batch.event_time[seen[-1]] - batch.event_time[event])
    return recent.order_OD[order] + recent.age_AD[min(int(math.log2(1 + seconds)), len(recent.age_AD) - 1)]


def _norm(norm: nn.Module, x: Tensor) -> Tensor:
    if isinstance(norm, nn.RMSNorm):
        return x / (x.square().mean() + 1e-6).sqrt() * norm.weight
    assert isinstance(norm, nn.LayerNorm)
    centred = x - x.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt() * norm.weight + norm.bias


def _attend(q: Tensor, keys: list[Tensor], values: list[Tensor], heads: int) -> Tensor:
    if not keys:
        return torch.zeros_like(q)
    found = []
    width = len(q) // heads
    for h in range(heads):
        at = slice(h * width, (h + 1) * width)
        weight = torch.stack([q[at] @ k[at] for k in keys]).div(width**0.5).softmax(0)
        found.append(sum((w * v[at] for w, v in zip(weight, values, strict=True)), torch.zeros_like(q[at])))
    return torch.cat(found)


def _lca(layer: ESTLayer, i: int, x: Tensor, behaviours: list[Tensor]) -> Tensor:
    w_k, w_v = layer.lca.key_value.weight.chunk(2)
    keys, values = [w_k @ b for b in behaviours], [w_v @ b for b in behaviours]
    out = _attend(x @ layer.lca.query.weight_LDE[i], keys, values, layer.lca.heads)
    return out @ layer.lca.out.weight_LDE[i]


def _csa(i: int, tokens: list[Tensor], contents: list[Tensor], k: int) -> Tensor:
    """Algorithm 1; an item without content neither reads nor is read."""
    likeness = {j: float(contents[i] @ m) for j, m in enumerate(contents) if contents[i].any() and m.any()}
    best = sorted(likeness, key=lambda j: -likeness[j])[:k]
    return sum((likeness[j] * tokens[j] for j in best), torch.zeros_like(tokens[i]))


def _ffn_of_token(layer: ESTLayer, i: int, x: Tensor) -> Tensor:
    gate, up = (x @ layer.ffn_n.gate_and_up.weight_LDE[i]).chunk(2)
    return (functional.silu(gate) * up) @ layer.ffn_n.out.weight_LDE[i]


def _ffn(layer: ESTLayer, x: Tensor) -> Tensor:
    gate, up = (layer.ffn_b.gate_and_up.weight @ x).chunk(2)
    return layer.ffn_b.out.weight @ (functional.silu(gate) * up)
