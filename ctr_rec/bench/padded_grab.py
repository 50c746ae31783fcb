"""GRAB one impression at a time: each with its own padded copy of its history, dense masks, plain PyTorch attention.

It reads the layers of our tower, so both compute one function of the same weights. What it is spared: tables and tokens
are made once per batch, as ours are.

Legend: T events of the batch, N chosen impressions, L padded history length, Q queries of each (L or 1), D width,
H heads, E width of a head, P positions or time buckets.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.packed import whole_seconds
from ctr_rec.models.grab.layer import GRABLayer
from ctr_rec.models.grab.tower import GRABTower
from ctr_rec.models.ranker import Ranker
from ctr_rec.ops.prefix_attention import time_bucket

# Low enough to weigh exactly nothing, and no NaN in the rows that pad.
_HIDDEN = -1e9


@dataclass(frozen=True)
class Copies:
    """event_NL: position in the batch's stream, some event where it pads. end: how many of the copy a query sees."""

    impression_N: Tensor
    event_NL: Tensor
    history_end_NL: Tensor
    end_N: Tensor


def copy_histories(batch: Batch, impression_N: Tensor, reach: int) -> Copies:
    """The newest `reach` events that each impression sees, padded to the longest of them. What a loader would make."""
    first_N = batch.event_offsets[batch.impression_user[impression_N]]
    end_N = batch.visible_end[impression_N]
    start_N = torch.maximum(first_N, end_N - reach)
    slot_L = torch.arange(max(int((end_N - start_N).max()), 1))
    event_NL = torch.minimum(start_N[:, None] + slot_L, (end_N - 1).clamp(min=0)[:, None])
    return Copies(impression_N, event_NL, batch.event_end[event_NL] - start_N[:, None], end_N - start_N)


def padded_logits(ranker: Ranker, batch: Batch, chunks: list[Copies]) -> Tensor:
    """Logits of the chosen impressions, chunk after chunk."""
    tower = ranker.tower
    assert isinstance(tower, GRABTower)
    assert len(tower.stacks) == 1, "the padded GRAB has one channel of all events"
    assert tower.profile is None
    assert tower.mlp is None
    embedded = ranker.front(batch)
    partial_TD = tower.tokenizer.partial_tokens(embedded, batch)
    full_ND = tower.tokenizer.full_tokens(embedded, batch)
    states = [_run(tower, partial_TD, full_ND, batch, copies) for copies in chunks]
    return ranker.head(torch.cat(states)).squeeze(-1)


def _run(tower: GRABTower, partial_TD: Tensor, full_ND: Tensor, batch: Batch, copies: Copies) -> Tensor:
    (name,) = tower.stacks
    stack, window = tower.stacks[name], tower.config.channels[name].window
    ticks = tower.sights[name].ticks_per_second
    key_time_NL = whole_seconds(batch.event_known_at[copies.event_NL], ticks)
    time_N = whole_seconds(batch.impression_time[copies.impression_N], ticks)
    action_NL = batch.event_action[copies.event_NL]
    x_NLD, y_NQD = partial_TD[copies.event_NL], full_ND[copies.impression_N].unsqueeze(1)
    layers = [layer for layer in stack.children() if isinstance(layer, GRABLayer)]
    history = _Seen(copies.history_end_NL, key_time_NL, key_time_NL, window)
    candidate = _Seen(copies.end_N[:, None], time_N[:, None], key_time_NL, window)
    for depth, layer in enumerate(layers, 1):
        k, v = _keys(layer, x_NLD, action_NL)
        own = _keys(layer, y_NQD, None)
        y_NQD = _block(layer, y_NQD, _attend(layer, y_NQD, k, v, candidate, own))
        if depth < len(layers):
            x_NLD = _block(layer, x_NLD, _attend(layer, x_NLD, k, v, history, None))
    return y_NQD.squeeze(1)


class _Seen:
    """Positions, visibility and seconds of every query and key of each copy, [N, Q, L]."""

    def __init__(self, end_NQ: Tensor, time_NQ: Tensor, key_time_NL: Tensor, window: int) -> None:
        self.distance = end_NQ.unsqueeze(2) - torch.arange(key_time_NL.shape[1])
        self.hidden = (self.distance < 1) | (self.distance > window)
        self.seconds = time_NQ.unsqueeze(2) - key_time_NL.unsqueeze(1)


def _attend(
    layer: GRABLayer, x_NQD: Tensor, k_NLHE: Tensor, v_NLHE: Tensor, seen: _Seen, own: tuple[Tensor, Tensor] | None
) -> Tensor:
    q_NHQE = layer.query(x_NQD).unflatten(-1, (layer.heads, -1)).transpose(1, 2) * layer.scale
    logit = torch.matmul(q_NHQE, k_NLHE.permute(0, 2, 3, 1))
    if layer.position_PE is not None:
        logit = logit + _looked_up(q_NHQE, layer.position_PE, seen.distance.clamp(0, len(layer.position_PE) - 1))
    if layer.time_BE is not None:
        logit = logit + _looked_up(q_NHQE, layer.time_BE, time_bucket(seen.seconds, len(layer.time_BE)))
    logit = logit.masked_fill(seen.hidden.unsqueeze(1), _HIDDEN)
    v_NHLE = v_NLHE.transpose(1, 2)
    if own is None:
        return torch.matmul(logit.softmax(-1), v_NHLE).transpose(1, 2).flatten(2)
    own_k_NHQE, own_v_NHQE = (kv.transpose(1, 2) for kv in own)
    for codes in (layer.position_PE, layer.time_BE):
        own_k_NHQE = own_k_NHQE if codes is None else own_k_NHQE + codes[0]
    weight = torch.cat([logit, (q_NHQE * own_k_NHQE).sum(-1, keepdim=True)], dim=-1).softmax(-1)
    out_NHQE = torch.matmul(weight[..., :-1], v_NHLE) + weight[..., -1:] * own_v_NHQE
    return out_NHQE.transpose(1, 2).flatten(2)


def _looked_up(q_NHQE: Tensor, codes_PE: Tensor, row_NQL: Tensor) -> Tensor:
    score_NHQP = torch.matmul(q_NHQE, codes_PE.t())
    return score_NHQP.gather(3, row_NQL.unsqueeze(1).expand(-1, q_NHQE.shape[1], -1, -1))


def _keys(layer: GRABLayer, x: Tensor, action: Tensor | None) -> tuple[Tensor, Tensor]:
    compressed = x if layer.compress is None else layer.compress(x)
    k, v = layer.key_value(compressed).unflatten(-1, (2, layer.heads, -1)).unbind(-3)
    if layer.action_AE is not None:
        k = k + (layer.action_AE[-1] if action is None else layer.action_AE[action].unsqueeze(-2))
    return k, v


def _block(layer: GRABLayer, x: Tensor, attended: Tensor) -> Tensor:
    x = layer.attention_norm(x + layer.dropout(layer.out(attended)))
    return layer.ffn_norm(x + layer.dropout(layer.ffn(x)))
