"""Cross-attention by batched products over buckets of nearly equal segments; backward written by hand.

What is saved against padding to the longest: the padding, and every pair in memory. Forward keeps the output and the
log-sum-exp of each query; backward computes each bucket's scores again. With the joint log-sum-exp of all sets the
weight of a pair is exp(score - lse) in whichever set it lies, so sets share one softmax without meeting.

Legend: see `ctr_rec/ops/jagged/buckets.py`; G = B * H products of a bucket, E width of queries and keys, V width of
values.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ctr_rec.ops.jagged.buckets import Bucket, Plan, Side, pieces


class Rows(NamedTuple):
    """Queries, keys and values as matrices of one row per (row of the caller, head)."""

    q: Tensor
    k: Tensor
    v: Tensor


class BucketedAttention(torch.autograd.Function):
    """Of queries and one or several sets: output [N, L, H, V] and log-sum-exp [N, L, H]."""

    @staticmethod
    def forward(ctx, plans: list[Plan], scale: float, q_NLHE: Tensor, *keys_and_values: Tensor):
        q_NLHE, *tensors = (x.contiguous() for x in (q_NLHE, *keys_and_values))
        sets = list(zip(tensors[::2], tensors[1::2], strict=True))
        parts = [_forward(plan, scale, q_NLHE, k, v) for plan, (k, v) in zip(plans, sets, strict=True)]
        out_NLHV, lse_NLH = parts[0] if len(parts) == 1 else merged(parts)
        ctx.save_for_backward(q_NLHE, *tensors, out_NLHV, lse_NLH)
        ctx.plans, ctx.scale = plans, scale
        ctx.set_materialize_grads(False)
        return out_NLHV, lse_NLH

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_NLHV: Tensor | None, grad_lse_NLH: Tensor | None):  # pyright: ignore[reportIncompatibleMethodOverride]
        q_NLHE, *keys_and_values, out_NLHV, lse_NLH = ctx.saved_tensors
        if grad_NLHV is None:
            grad_NLHV = torch.zeros_like(out_NLHV)
        # d score = weight * (grad . v - mean), and the gradient of the log-sum-exp spreads over scores by weight too.
        mean_NLH = (grad_NLHV * out_NLHV).sum(dim=3, dtype=lse_NLH.dtype)
        if grad_lse_NLH is not None:
            mean_NLH = mean_NLH - grad_lse_NLH
        grad_NLHV = grad_NLHV.contiguous()
        d_q_NLHE, found = None, []
        for i, plan in enumerate(ctx.plans):
            k_PHE, v_PHV = keys_and_values[2 * i : 2 * i + 2]
            rows = _rows(q_NLHE, k_PHE, v_PHV)
            d_q, d_k, d_v = _backward(plan, ctx.scale, rows, grad_NLHV, lse_NLH, mean_NLH)
            d_q_NLHE = d_q.view_as(q_NLHE) if d_q_NLHE is None else d_q_NLHE.add_(d_q.view_as(q_NLHE))
            found += [d_k.view_as(k_PHE), d_v.view_as(v_PHV)]
        return None, None, d_q_NLHE, *found


def merged(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Outputs and log-sum-exps of disjoint sets as those of their union; nothing anywhere gives zeros and -inf."""
    top_NLH = torch.stack([lse for _, lse in parts]).amax(dim=0).detach()
    empty_NLH = top_NLH == -torch.inf
    top_NLH = top_NLH.masked_fill(empty_NLH, 0)
    weights = [(lse - top_NLH).exp() for _, lse in parts]
    total_NLH = torch.stack(weights).sum(dim=0).masked_fill(empty_NLH, 1)
    out_NLHV = torch.zeros((), device=top_NLH.device)
    for weight_NLH, (out, _) in zip(weights, parts, strict=True):
        out_NLHV = out_NLHV + out * (weight_NLH / total_NLH).unsqueeze(-1).to(out.dtype)
    return out_NLHV, (total_NLH.log() + top_NLH).masked_fill(empty_NLH, -torch.inf)


def _rows(q_NLHE: Tensor, k_PHE: Tensor, v_PHV: Tensor) -> Rows:
    return Rows(q_NLHE.flatten(0, 2), k_PHE.flatten(0, 1), v_PHV.flatten(0, 1))


def _forward(plan: Plan, scale: float, q_NLHE: Tensor, k_PHE: Tensor, v_PHV: Tensor) -> tuple[Tensor, Tensor]:
    rows = _rows(q_NLHE, k_PHE, v_PHV)
    precise = _precise(q_NLHE.dtype)
    out_RV = _buffer(plan.queries, v_PHV.shape[2], rows.v)
    lse_R = rows.q.new_empty(plan.queries.size + 1, dtype=precise)
    lse_R[-1] = -torch.inf
    for bucket in plan.buckets:
        q_GQE, k_GKE, v_GKV = _gather(plan, bucket, rows)
        hidden_BHQK = _hidden(plan, bucket)
        out_GQV = _part(out_RV, bucket.query_start, len(q_GQE), bucket.queries)
        lse_GQ = lse_R[bucket.query_start :][: len(q_GQE) * bucket.queries].view(-1, bucket.queries)
        for at in pieces(bucket, len(q_GQE)):
            score_GQK = _scores(q_GQE[:, at], k_GKE, scale)
            # A padded key repeats a real one, so it cannot raise the largest score.
            top_GQ1 = score_GQK.amax(dim=2, keepdim=True)
            score_GQK.sub_(top_GQ1).exp_()
            _hide(score_GQK, hidden_BHQK)
            total_GQ1 = score_GQK.sum(dim=2, keepdim=True)
            share_GQV = torch.bmm(score_GQK.to(v_GKV.dtype), v_GKV)
            torch.div(share_GQV, total_GQ1.to(share_GQV.dtype), out=out_GQV[:, at])
            lse_GQ[:, at] = total_GQ1.log_().add_(top_GQ1).squeeze(2)
    out_NLHV = _back(plan.queries, out_RV).view(*q_NLHE.shape[:3], v_PHV.shape[2])
    return out_NLHV, lse_R[plan.queries.back_RH.flatten()].view(q_NLHE.shape[:3])


def _backward(
    plan: Plan, scale: float, rows: Rows, grad_NLHV: Tensor, lse_NLH: Tensor, mean_NLH: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the rows, given the log-sum-exp over all sets and the mean of the gradient over all pairs."""
    d_q_RE = _buffer(plan.queries, rows.q.shape[1], rows.q)
    d_k_RE, d_v_RV = (_buffer(plan.keys, x.shape[1], x) for x in (rows.k, rows.v))
    grad_RV, lse_R, mean_R = grad_NLHV.flatten(0, 2), lse_NLH.flatten(), mean_NLH.flatten()
    for bucket in plan.buckets:
        q_GQE, k_GKE, v_GKV = _gather(plan, bucket, rows)
        query_rows = plan.queries.rows(bucket, bucket.queries)
        grad_GQV, lse_GQ1, mean_GQ1 = (
            x.index_select(0, query_rows).view(len(q_GQE), bucket.queries, -1) for x in (grad_RV, lse_R, mean_R)
        )
        if not bucket.even_queries:
            padding_BHQ1 = plan.queries.padding(bucket, bucket.queries)[:, None, :, None]
            for x in (grad_GQV, mean_GQ1):
                x.view(bucket.last - bucket.first, -1, bucket.queries, x.shape[2]).masked_fill_(padding_BHQ1, 0)
        hidden_BHQK = _hidden(plan, bucket)
        d_q_GQE = _part(d_q_RE, bucket.query_start, len(q_GQE), bucket.queries)
        d_k_GKE, d_v_GKV = (_part(x, bucket.key_start, len(q_GQE), bucket.keys) for x in (d_k_RE, d_v_RV))
        for i, at in enumerate(pieces(bucket, len(q_GQE))):
            beta = min(i, 1)
            q, grad = q_GQE[:, at], grad_GQV[:, at]
            weight_GQK = _scores(q, k_GKE, scale, lse_GQ1[:, at]).exp_()
            _hide(weight_GQK, hidden_BHQK)
            weight = weight_GQK.to(grad.dtype)
            torch.baddbmm(d_v_GKV, weight.transpose(1, 2), grad, beta=beta, out=d_v_GKV)
            d_score = _scores(grad, v_GKV, 1.0, mean_GQ1[:, at]).mul_(weight_GQK).to(q.dtype)
            torch.baddbmm(d_k_GKE, d_score.transpose(1, 2), q, beta=beta, alpha=scale, out=d_k_GKE)
            torch.baddbmm(d_q_GQE[:, at], d_score, k_GKE, beta=0, alpha=scale, out=d_q_GQE[:, at])
    d_q = _back(plan.queries, d_q_RE)
    del d_q_RE
    d_k = _back(plan.keys, d_k_RE)
    del d_k_RE
    return d_q, d_k, _back(plan.keys, d_v_RV)


def _precise(dtype: torch.dtype) -> torch.dtype:
    """The type of scores and sums."""
    return torch.promote_types(dtype, torch.float32)


def _scores(a_GQE: Tensor, b_GKE: Tensor, scale: float, minus_GQ1: Tensor | None = None) -> Tensor:
    """scale * a . b - minus for every pair, [G, Q, K]."""
    b_GEK = b_GKE.transpose(1, 2)
    if a_GQE.dtype != _precise(a_GQE.dtype):
        score_GQK = torch.bmm(a_GQE, b_GEK).to(_precise(a_GQE.dtype)).mul_(scale)
        return score_GQK if minus_GQ1 is None else score_GQK.sub_(minus_GQ1)
    if minus_GQ1 is None:
        unread = a_GQE.new_zeros(())
        return torch.baddbmm(unread, a_GQE, b_GEK, beta=0, alpha=scale)
    return torch.baddbmm(minus_GQ1, a_GQE, b_GEK, beta=-1, alpha=scale)


def _gather(plan: Plan, bucket: Bucket, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    query_rows, key_rows = plan.queries.rows(bucket, bucket.queries), plan.keys.rows(bucket, bucket.keys)
    q = rows.q.index_select(0, query_rows).view(-1, bucket.queries, rows.q.shape[1])
    k, v = (x.index_select(0, key_rows).view(-1, bucket.keys, x.shape[1]) for x in (rows.k, rows.v))
    return q, k, v


def _hidden(plan: Plan, bucket: Bucket) -> Tensor | None:
    return None if bucket.even_keys else plan.keys.padding(bucket, bucket.keys)[:, None, None]


def _hide(weight_GQK: Tensor, hidden_B11K: Tensor | None) -> None:
    if hidden_B11K is not None:
        weight_GQK.view(len(hidden_B11K), -1, *weight_GQK.shape[1:]).masked_fill_(hidden_B11K, 0)


def _buffer(side: Side, width: int, like: Tensor) -> Tensor:
    """For the results of all buckets, and a last row of zeros. Every other row is written before it is read."""
    buffer = like.new_empty(side.size + 1, width)
    buffer[-1] = 0
    return buffer


def _part(buffer: Tensor, start: int, num_products: int, most: int) -> Tensor:
    return buffer[start : start + num_products * most].view(num_products, most, buffer.shape[1])


def _back(side: Side, buffer: Tensor) -> Tensor:
    return buffer.index_select(0, side.back_RH.flatten())
