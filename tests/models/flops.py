"""A tower's own count of its arithmetic against PyTorch's counter, in one line for any tower's tests.

    assert_flops_match(config, SPEC, batch)

PyTorch's counter (`torch.utils.flop_counter`) sees matrix products, two FLOPs per multiply-add, of the shapes that run.
It does not see look-ups, sums, elementwise products, norms, activations and softmax: `cost` leaves them out too, but
for what a tower names (`unseen`: the additions of a mean, the products of a cross). It does see what a fast path
computes beyond true lengths (masked places of a tile), or hides in a call that it does not know. So while it counts,
the attention ops run as below: products of exactly the visible pairs, one query at a time, whose output must be
that of the op itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from ctr_rec.batch.batch import Batch
from ctr_rec.models.tower import Filling, Tower, TowerConfig
from ctr_rec.ops.cross_attention import KeySet, Part
from ctr_rec.ops.cross_attention.keys import segment_of_impression
from ctr_rec.ops.jagged import segment_of_row
from ctr_rec.ops.prefix_attention import reference
from ctr_rec.ops.prefix_attention.bias import Bias, QueryBias
from ctr_rec.ops.prefix_attention.pairs import Pairs
from ctr_rec.ops.target_attention.weights import AttentionMLP, PairCode
from ctr_rec.schema.table import SparseSpec
from tests.models.streams import CHANNELS, look_up


def assert_flops_match(
    config: TowerConfig,
    spec: SparseSpec,
    batch: Batch,
    tolerance: float = 0.0,
    *,
    unseen: int = 0,
    uncounted: int = 0,
    ops: Mapping[str, Callable[..., Any]] | None = None,
) -> None:
    """Fails where `Tower.flops(batch)` is not what PyTorch counts in a forward pass over this batch.

    tolerance: relative. unseen: FLOPs that the tower counts and PyTorch cannot see. uncounted: FLOPs that PyTorch sees
    and the tower does not count, being work that sharing saves elsewhere. ops: more functions, by their full name, to
    run in place of fast paths while counting; attention of the package's own ops is replaced already.
    """
    tower = build(config, spec)
    embedded = look_up(batch, spec)
    with torch.no_grad():
        expected = tower(embedded, batch)
        with counted_ops(ops or {}), FlopCounterMode(display=False) as counter:
            found = tower(embedded, batch)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    said, seen = tower.flops(batch) - unseen, counter.get_total_flops() - uncounted
    assert seen > 0
    assert said == pytest.approx(seen, rel=tolerance, abs=0), (
        f"{type(tower).__name__}.flops says {said:,} of products (and {unseen:,} unseen), PyTorch counts {seen:,} "
        f"(and {uncounted:,} that the tower leaves out)"
    )


def build(config: TowerConfig, spec: SparseSpec) -> Tower:
    """The tower in float64, in evaluation mode."""
    torch.manual_seed(0)
    return config.build(spec, tuple(CHANNELS) if config.filling is Filling.POINTWISE else ()).double().eval()


@contextmanager
def counted_ops(more: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Attention by products that PyTorch's counter sees, of visible pairs alone."""
    prefix, target = "ctr_rec.ops.prefix_attention.attention", "ctr_rec.ops.target_attention"
    ops: dict[str, Callable[..., Any]] = {
        f"{prefix}._attend": _attend,
        "ctr_rec.ops.cross_attention.attention._bucketed": _cross_attention,
        **more,
    }
    with ExitStack() as stack:
        for name, function in ops.items():
            stack.enter_context(mock.patch(name, function))
        stack.enter_context(mock.patch.dict(f"{target}._BACKENDS", {"blocked": _target_attention}))
        yield


def _attend(
    q_QHE: Tensor,
    k_THE: Tensor,
    v_THV: Tensor,
    own_k_CKHE: Tensor | None,
    own_v_CKHV: Tensor | None,
    bias: Bias | None,
    plan: Pairs,
    kind: str,
    scale: float,
    _backend: str,
) -> Tensor:
    """Prefix attention, see the package: one query after another, a product with each key and each value it sees.

    A query-aware bias multiplies the query with every row of the code tables once, which is how the fast path does it.
    """
    added_QHT = _bias_of_pairs(bias, q_QHE, plan, scale)
    found = []
    for query, (lo, hi) in enumerate(zip(plan.lo_Q.tolist(), plan.hi_Q.tolist(), strict=True)):
        keys, values, added_HL = k_THE[lo:hi], v_THV[lo:hi], added_QHT[query][:, lo:hi]
        own = query - (len(q_QHE) - len(own_k_CKHE)) if own_k_CKHE is not None else -1
        if own >= 0 and own_k_CKHE is not None and own_v_CKHV is not None:
            keys, values = torch.cat([keys, own_k_CKHE[own]]), torch.cat([values, own_v_CKHV[own]])
            rest = keys.shape[0] - (hi - lo)
            added_HL = torch.cat([added_HL, added_QHT[query][:, -1:].expand(-1, rest)], dim=1)
        if not keys.shape[0]:
            found.append(v_THV.new_zeros(v_THV.shape[1:]))
            continue
        logit_HL = scale * torch.bmm(keys.transpose(0, 1), q_QHE[query].unsqueeze(2)).squeeze(2) + added_HL
        weight_HL = functional.silu(logit_HL) if kind == "silu" else logit_HL.softmax(dim=1)
        found.append(torch.bmm(weight_HL.unsqueeze(1), values.transpose(0, 1)).squeeze(1))
    return torch.stack(found) if found else v_THV.new_zeros(0, *v_THV.shape[1:])


def _bias_of_pairs(bias: Bias | None, q_QHE: Tensor, plan: Pairs, scale: float) -> Tensor:
    """[Q, H, T + 1]: what is added to the logit of each key, and last to that of own keys."""
    queries, heads, _ = q_QHE.shape
    added_QHT = q_QHE.new_zeros(queries, heads, plan.num_keys + 1)
    if bias is None:
        return added_QHT
    timed = replace(bias, query_time_Q=plan.query_time_Q, key_time_T=plan.key_time_T, time_edges_G=plan.time_edges_G)
    rows = []
    if bias.num_positions:
        rows.append(reference.position_rows(timed, plan.hi_Q, plan.num_keys))
    if bias.num_buckets:
        rows.append(reference.time_rows(timed))
    if isinstance(bias, QueryBias):
        tables = [table for table in (bias.position_PE, bias.time_BE) if table is not None]
        scores = [scale * (q_QHE.flatten(0, 1) @ table.t()).view(queries, heads, -1) for table in tables]
    else:
        tables = [table for table in (bias.position_PH, bias.time_BH) if table is not None]
        scores = [table.t().expand(queries, -1, -1) for table in tables]
    for row_QT, score_QHR in zip(rows, scores, strict=True):
        own_Q1 = row_QT.new_zeros(queries, 1)
        index = torch.cat([row_QT, own_Q1], dim=1).unsqueeze(1).expand(-1, heads, -1)
        added_QHT = added_QHT + score_QHR.gather(2, index)
    return added_QHT


def _cross_attention(q_NLHE: Tensor, key_sets: Sequence[KeySet], scale: float) -> Part:
    """Cross-attention, see the package: each impression's queries by exactly the keys of its segments."""
    segments = [(of, segment_of_impression(of, len(q_NLHE)).tolist(), of.offsets_S1.tolist()) for of in key_sets]
    out, lse = [], []
    for n, q_LHE in enumerate(q_NLHE):
        ranges = [(of, slice(offsets[segment[n]], offsets[segment[n] + 1])) for of, segment, offsets in segments]
        k_HKE, v_HKV = (
            torch.cat([x[rows] for x, rows in found]).transpose(0, 1)
            for found in ([(of.k_PHE, rows) for of, rows in ranges], [(of.v_PHE, rows) for of, rows in ranges])
        )
        score_HLK = scale * torch.bmm(q_LHE.transpose(0, 1), k_HKE.transpose(1, 2))
        weight_HLK = score_HLK.softmax(2) if k_HKE.shape[1] else score_HLK
        out.append(torch.bmm(weight_HLK, v_HKV).transpose(0, 1))
        lse.append(score_HLK.logsumexp(2).t())
    if not out:
        return Part(q_NLHE.new_zeros(*q_NLHE.shape[:3], key_sets[0].v_PHE.shape[2]), q_NLHE.new_zeros(q_NLHE.shape[:3]))
    return Part(torch.stack(out), torch.stack(lse))


def _target_attention(
    target_ND: Tensor,
    event_TD: Tensor,
    position_P: Tensor,
    offsets_N1: Tensor,
    mlp: AttentionMLP,
    pair_codes: Sequence[PairCode],
    activation: str,
    normalize: str,
) -> Tensor:
    """DIN's attention, see the package: the first layer split as the op says, each sum of events as a product."""
    act = functional.relu if activation == "relu" else functional.silu
    impression_P = segment_of_row(offsets_N1)
    event_PD = event_TD[position_P]
    x_PH = (event_PD * target_ND[impression_P]) @ mlp.w_product_DH + (event_TD @ mlp.w_event_DH)[position_P]
    x_PH = x_PH + (target_ND @ mlp.w_target_DH + mlp.b_H)[impression_P]
    for code in pair_codes:
        x_PH = x_PH + code.bias_CH[code.code_P]
    x_PW = act(x_PH)
    for weight, b in mlp.hidden:
        x_PW = act(x_PW @ weight + b)
    score_P1 = x_PW @ mlp.w_out_K[:, None] + mlp.b_out
    pooled = []
    for start, end in pairwise(offsets_N1.tolist()):
        score_1L = score_P1[start:end].t()
        pooled.append((score_1L if normalize == "none" else score_1L.softmax(1)) @ event_PD[start:end])
    return torch.cat(pooled) if pooled else target_ND.new_zeros(0, event_TD.shape[1])
