"""EST written as its paper prints it: one impression, one token, one head at a time, in float64.

Takes a tower's weights and the tokens that its input makes, and nothing else of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.token_inputs import Tokens
from ctr_rec.models.est.layer import ESTLayer
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
