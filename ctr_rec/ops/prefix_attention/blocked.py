"""Blocks of queries against their joint span of keys: dense products on slices, no padding, linear cost with a window.

Bias and mask are one look-up (lookup.py). The backward pass is written by hand and recomputes the logits block by
block, so nothing of size (pairs) is kept between the passes, but for calls so small that it is cheap (KEPT_PAIRS).

Legend: Q queries, C queries with own keys (the last C), K own keys of each, T keys, H heads, E width of queries and
keys, V width of values, N columns or rows of the bias table; q, k and p the queries, keys and pairs of one block.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu

from ctr_rec.ops.prefix_attention.lookup import lookup
from ctr_rec.ops.prefix_attention.plan import Block, BlockPlan

# SiLU(x) and its derivative are exactly 0 here, and x * 0 is not NaN as it would be at -inf.
_HIDDEN_SILU = -1e7
_HIDDEN_SOFTMAX = float("-inf")
_LOWEST_TOP = -1e30
_AMAX_STEP = 64
_BITS = math.log2(math.e)
KEPT_PAIRS = 1 << 23
"""Of a softmax with codes on CPU, so many weights over all heads are kept for the backward pass at most, else they are
computed again. It bounds what a call keeps by 32 MiB, whatever its length; a batch of the recipes stays below."""


class Logits:
    """Fills one scratch buffer with scale q.k + bias, block after block. subtracted_QH: of all logits of a query.

    q_HQE: scaled once here, queries need no scale in any product nor any gradient but their own.
    """

    def __init__(
        self,
        q_QHE: Tensor,
        k_THE: Tensor,
        table: Tensor | None,
        plan: BlockPlan,
        kind: str,
        scale: float,
        subtracted_QH: Tensor | None = None,
    ):
        self.plan, self.num_heads = plan, q_QHE.shape[1]
        # A softmax's logits are in bits: on CPU exp takes 20 times as long where it underflows, as hidden pairs do, and
        # exp2 does not. A table of scalars is added to them, codes are multiplied with the queries.
        self.unit = _BITS if kind == "softmax" else 1.0
        q_QHE = q_QHE * (scale * self.unit)
        if subtracted_QH is not None:
            subtracted_QH = subtracted_QH * self.unit
        if table is not None and plan.joint:
            table = table * self.unit
        wide_HQE, k_HTE = _joined(q_QHE, k_THE, subtracted_QH, plan)
        self.q_HQE = wide_HQE[..., : q_QHE.shape[2]]
        self.bias = lookup(table, plan, self.q_HQE, _HIDDEN_SILU if kind == "silu" else _HIDDEN_SOFTMAX)
        self.q_blocks, self.wide_blocks = plan.split_rows(self.q_HQE), plan.split_rows(wide_HQE)
        self.k_HET = k_HTE.transpose(1, 2)
        self.buffer, self.kept = self.scratch(), False

    def scratch(self) -> Tensor:
        """For the pairs of any block, behind room for a row of keys (see Lookup)."""
        return self.q_HQE.new_empty(self.plan.most_keys + self.num_heads * self.plan.largest_block)

    def keep(self) -> Tensor:
        """A buffer in which the logits of every block stay."""
        self.buffer, self.kept = self.q_HQE.new_empty(self.plan.most_keys + self.num_heads * self.plan.num_pairs), True
        return self.buffer

    def pairs(self, scratch: Tensor, block: Block, first: int = 0) -> Tensor:
        """first: pairs before this block's."""
        place = self.plan.most_keys + self.num_heads * first
        return scratch.narrow(0, place, self.num_heads * block.num_pairs).view(-1, block.num_rows, block.num_keys)

    def fill(self, index: int) -> Tensor:
        """Logits of one block, [H, q, k]; they live until the next call unless they are kept."""
        block = self.plan.blocks[index]
        logit_Hqk = self.pairs(self.buffer, block, self.plan.first_pairs[index] if self.kept else 0)
        self.bias.fill(index, self.q_blocks[index], logit_Hqk)
        return logit_Hqk.baddbmm_(self.wide_blocks[index], self.k_HET.narrow(2, block.key_start, block.num_keys))


def _joined(a_QHE: Tensor, b_THE: Tensor, subtracted_QH: Tensor | None, plan: BlockPlan) -> tuple[Tensor, Tensor]:
    """Two sides whose product is a.b - subtracted: one more column costs less than one more pass over all pairs."""
    if subtracted_QH is not None:
        a_QHE = torch.cat([a_QHE, -subtracted_QH.unsqueeze(2)], dim=2)
        b_THE = torch.cat([b_THE, b_THE.new_ones(*b_THE.shape[:2], 1)], dim=2)
    return plan.to_plan_order(a_QHE).transpose(0, 1), b_THE.transpose(0, 1)


def _row_max(logit_Hqk: Tensor) -> Tensor:
    """Of each row. On CPU amax takes a row in steps of 64 and the rest one by one, which took four times as long."""
    num_keys = logit_Hqk.shape[2]
    rest = num_keys % _AMAX_STEP
    if rest == 0 or num_keys < _AMAX_STEP:
        return logit_Hqk.amax(-1)
    last_Hq = logit_Hqk.narrow(2, num_keys - _AMAX_STEP, _AMAX_STEP).amax(-1)
    return torch.maximum(logit_Hqk.narrow(2, 0, num_keys - rest).amax(-1), last_Hq)


class _Softmax:
    """Row by row what a block's softmax leaves over: the largest logit and the sum of 2^(logit - largest), [H, Q]."""

    def __init__(self, plan: BlockPlan, like_HQE: Tensor) -> None:
        # A query that sees nothing has -inf as its largest; -inf - -inf would be NaN.
        self.top_HQ = like_HQE.new_full(like_HQE.shape[:2], _LOWEST_TOP)
        self.total_HQ = like_HQE.new_zeros(like_HQE.shape[:2])
        self.top_blocks, self.total_blocks = (plan.split_rows(x_HQ) for x_HQ in (self.top_HQ, self.total_HQ))

    def exp_(self, index: int, logit_Hqk: Tensor) -> None:
        """Turn logits into weights in place, up to their denominators."""
        top_Hq = self.top_blocks[index].copy_(_row_max(logit_Hqk).clamp_(min=_LOWEST_TOP))
        torch.sum(logit_Hqk.sub_(top_Hq.unsqueeze(2)).exp2_(), -1, out=self.total_blocks[index])

    def finish_(self, out_HQV: Tensor, own_HQ: Tensor) -> tuple[Tensor, Tensor]:
        """Divide by the denominators, the own logits counted in. Returns their logs, 0 for who sees nothing: so
        exp(-inf - 0) is 0 again in the backward pass; and what the weights of `exp_` lack as factor.
        """
        top_HQ = self.top_HQ / _BITS
        lse_HQ = torch.logaddexp(top_HQ + self.total_HQ.log(), own_HQ)
        lse_HQ.masked_fill_(lse_HQ == _HIDDEN_SOFTMAX, 0.0)
        factor_HQ = torch.exp(top_HQ - lse_HQ)
        out_HQV.mul_(factor_HQ.unsqueeze(2))
        return lse_HQ, factor_HQ


def own_in_plan_order(plan: BlockPlan, own_logit_CKH: Tensor | None, like_QHE: Tensor) -> Tensor:
    """Own logits in the plan's order, -inf where there is none. Those of one query count as one that weighs as much."""
    own_QH = like_QHE.new_full(like_QHE.shape[:2], _HIDDEN_SOFTMAX)
    if own_logit_CKH is not None:
        own_QH[len(own_QH) - len(own_logit_CKH) :] = own_logit_CKH.logsumexp(1)
    return plan.to_plan_order(own_QH).t()


def _to_logits_(grad_Hqk: Tensor, logit_Hqk: Tensor, kind: str) -> Tensor:
    """Turn the weights' gradient into the logits', and the logits into weights, both in place; returns the weights.

    For softmax, each query's log-denominator and sum(grad_out * out) are subtracted already (see _joined).
    """
    if kind == "silu":
        torch.ops.aten.silu_backward.grad_input(grad_Hqk, logit_Hqk, grad_input=grad_Hqk)
        return torch.ops.aten.silu.out(logit_Hqk, out=logit_Hqk)
    weight_Hqk = logit_Hqk.exp2_()
    grad_Hqk.mul_(weight_Hqk)
    return weight_Hqk


def _add_keys(total_HTW: Tensor, block: Block, part_HkW: Tensor) -> None:
    """Add a block's share to the gradient of its keys: baddbmm_ on such a slice falls back to one product per head."""
    total_HTW.narrow(1, block.key_start, block.num_keys).add_(part_HkW)


class BlockedAttention(torch.autograd.Function):
    """Weighted sum of visible values and of the query's own, [Q, H, V]."""

    @staticmethod
    def forward(
        ctx: Any,
        q_QHE: Tensor,
        k_THE: Tensor,
        v_THV: Tensor,
        table: Tensor | None,
        own_logit_CKH: Tensor | None,
        own_v_CKHV: Tensor | None,
        plan: BlockPlan,
        kind: str,
        scale: float,
        keep: bool,
    ) -> Tensor:
        logits = Logits(q_QHE, k_THE, table, plan, kind, scale)
        kept = logits.keep() if keep and kind == "softmax" else None
        v_HTV = v_THV.transpose(0, 1)
        out_HQV = v_THV.new_empty(*logits.q_HQE.shape[:2], v_THV.shape[2])
        out_blocks = plan.split_rows(out_HQV)
        softmax = _Softmax(plan, logits.q_HQE) if kind == "softmax" else None
        for index, block in enumerate(plan.blocks):
            if block.num_keys == 0:
                out_blocks[index].zero_()
                continue
            weight_Hqk = logits.fill(index)
            if softmax is None:
                torch.ops.aten.silu.out(weight_Hqk, out=weight_Hqk)
            else:
                softmax.exp_(index, weight_Hqk)
            out_blocks[index].copy_(torch.bmm(weight_Hqk, v_HTV.narrow(1, block.key_start, block.num_keys)))

        lse_QH = factor_QH = None
        if softmax is not None:
            found = softmax.finish_(out_HQV, own_in_plan_order(plan, own_logit_CKH, q_QHE))
            lse_QH, factor_QH = (plan.to_query_order(x_HQ.t()) for x_HQ in found)
        out_QHV = plan.to_query_order(out_HQV.transpose(0, 1))
        _add_own_(out_QHV, own_logit_CKH, own_v_CKHV, lse_QH)
        ctx.plan, ctx.kind, ctx.scale = plan, kind, scale
        kept_out_QHV = None if kind == "silu" else out_QHV
        ctx.save_for_backward(q_QHE, k_THE, v_THV, table, own_logit_CKH, own_v_CKHV, lse_QH, kept_out_QHV)
        # Not seen by the caller, so nothing can change it in between.
        ctx.kept, ctx.factor_QH = kept, factor_QH
        return out_QHV

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out_QHV: Tensor) -> tuple[Tensor | None, ...]:
        q_QHE, k_THE, v_THV, table, own_logit_CKH, own_v_CKHV, lse_QH, out_QHV = ctx.saved_tensors
        plan: BlockPlan = ctx.plan
        delta_QH = None if out_QHV is None else (grad_out_QHV * out_QHV).sum(-1)
        kept: Tensor | None = ctx.kept
        logits = Logits(q_QHE, k_THE, table, plan, ctx.kind, ctx.scale, lse_QH if kept is None else None)
        scratch = logits.scratch()
        if kept is None or delta_QH is None:
            wide_HQV, v_HTV = _joined(grad_out_QHV, v_THV, delta_QH, plan)
        else:
            # What the kept weights lack is a factor of each query, and both products with them are linear in this.
            factor_QH: Tensor = ctx.factor_QH
            scaled_QHV = grad_out_QHV * factor_QH.unsqueeze(2)
            wide_HQV, v_HTV = _joined(scaled_QHV, v_THV, delta_QH * factor_QH, plan)
        wide_blocks = plan.split_rows(wide_HQV)
        grad_out_blocks = plan.split_rows(wide_HQV[..., : v_THV.shape[2]])
        k_HTE = k_THE.transpose(0, 1)
        grad_q_HQE = torch.empty_like(logits.q_HQE, memory_format=torch.contiguous_format)
        grad_q_blocks = plan.split_rows(grad_q_HQE)
        grad_k_HTE = torch.zeros_like(k_HTE, memory_format=torch.contiguous_format)
        grad_v_HTV = torch.zeros_like(v_THV.transpose(0, 1), memory_format=torch.contiguous_format)
        for index, block in enumerate(plan.blocks):
            if block.num_keys == 0:
                grad_q_blocks[index].zero_()
                continue
            grad_Hqk = logits.pairs(scratch, block)
            v_HVk = v_HTV.narrow(1, block.key_start, block.num_keys).transpose(1, 2)
            torch.bmm(wide_blocks[index], v_HVk, out=grad_Hqk)
            if kept is None:
                weight_Hqk = _to_logits_(grad_Hqk, logits.fill(index), ctx.kind)
            else:
                weight_Hqk = logits.pairs(kept, block, plan.first_pairs[index])
                grad_Hqk.mul_(weight_Hqk)
            _add_keys(grad_v_HTV, block, torch.bmm(weight_Hqk.transpose(1, 2), grad_out_blocks[index]))
            _add_keys(grad_k_HTE, block, torch.bmm(grad_Hqk.transpose(1, 2), logits.q_blocks[index]))
            grad_q_HqE = torch.bmm(grad_Hqk, k_HTE.narrow(1, block.key_start, block.num_keys))
            logits.bias.spread(index, logits.q_blocks[index], grad_Hqk, grad_q_HqE)
            grad_q_blocks[index].copy_(grad_q_HqE)

        grad_table = logits.bias.gradient(logits.q_HQE, grad_q_HQE)
        if grad_table is not None and not plan.joint:
            grad_table = grad_table / logits.unit
        own = _own_backward(own_logit_CKH, own_v_CKHV, grad_out_QHV, lse_QH, delta_QH)
        return (
            plan.to_query_order(grad_q_HQE.mul_(ctx.scale).transpose(0, 1)),
            grad_k_HTE.div_(logits.unit).transpose(0, 1),
            grad_v_HTV.transpose(0, 1),
            grad_table,
            *own,
            None,
            None,
            None,
            None,
        )


def own_logit(q_CHE: Tensor, own_k_CKHE: Tensor, table: Tensor | None, plan: BlockPlan, scale: float) -> Tensor:
    """Logits of each query's own keys, which have position row 0 and time row 0. [C, K, H]."""
    q_C1HE = q_CHE.unsqueeze(1)
    if table is None or plan.joint:
        own_logit_CKH = scale * (q_C1HE * own_k_CKHE).sum(-1)
        return own_logit_CKH if table is None else own_logit_CKH + table[:, 0]
    first_rows = [row for row, size in ((0, plan.num_positions), (plan.num_positions, plan.num_buckets)) if size]
    return scale * (q_C1HE * (own_k_CKHE + table[first_rows].sum(0))).sum(-1)


def _own_weight(own_logit_CKH: Tensor, lse_QH: Tensor | None) -> Tensor:
    """Weight of each own value: SiLU, or its share of the query's softmax."""
    if lse_QH is None:
        return silu(own_logit_CKH)
    return torch.exp(own_logit_CKH - lse_QH[len(lse_QH) - len(own_logit_CKH) :].unsqueeze(1))


def _add_own_(out_QHV: Tensor, own_logit_CKH: Tensor | None, own_v_CKHV: Tensor | None, lse_QH: Tensor | None) -> None:
    """Adds the own values, weighted, to the outputs of the last C queries."""
    if own_logit_CKH is None or own_v_CKHV is None:
        return
    out_CHV = out_QHV[len(out_QHV) - len(own_v_CKHV) :]
    weight_CKH1 = _own_weight(own_logit_CKH, lse_QH).unsqueeze(-1)
    for weight_CH1, own_v_CHV in zip(weight_CKH1.unbind(1), own_v_CKHV.unbind(1), strict=True):
        out_CHV.addcmul_(weight_CH1, own_v_CHV)


def _own_backward(
    own_logit_CKH: Tensor | None,
    own_v_CKHV: Tensor | None,
    grad_out_QHV: Tensor,
    lse_QH: Tensor | None,
    delta_QH: Tensor | None,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the own logits and values."""
    if own_logit_CKH is None or own_v_CKHV is None:
        return None, None
    first = len(grad_out_QHV) - len(own_v_CKHV)
    grad_out_C1HV = grad_out_QHV[first:].unsqueeze(1)
    weight_CKH = _own_weight(own_logit_CKH, lse_QH)
    grad_weight_CKH = (grad_out_C1HV * own_v_CKHV).sum(-1)
    if delta_QH is None:
        grad_logit_CKH = torch.ops.aten.silu_backward(grad_weight_CKH, own_logit_CKH)
    else:
        grad_logit_CKH = weight_CKH * (grad_weight_CKH - delta_QH[first:].unsqueeze(1))
    return grad_logit_CKH, weight_CKH.unsqueeze(-1) * grad_out_C1HV


def blocked_prefix_attention(
    q_QHE: Tensor,
    k_THE: Tensor,
    v_THV: Tensor,
    own_k_CKHE: Tensor | None,
    own_v_CKHV: Tensor | None,
    table: Tensor | None,
    plan: BlockPlan,
    *,
    kind: str,
    scale: float,
) -> Tensor:
    """The same as reference_prefix_attention, with the bias table and the plan in place of ranges and bias.

    table: the joint table [H, N] where the plan is joint, code rows [N, E] where it is not, or None.
    Half-precision inputs are computed in float32 and returned in their own dtype.
    """
    dtype = v_THV.dtype
    compute = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    q_QHE, k_THE, v_THV = q_QHE.to(compute), k_THE.to(compute), v_THV.to(compute)
    table = None if table is None else table.to(compute)
    # Autocast would round the products of some of the operations below and not of others.
    with torch.autocast(v_THV.device.type, enabled=False):
        own_logit_CKH = None
        if own_k_CKHE is not None and own_v_CKHV is not None:
            own_v_CKHV = own_v_CKHV.to(compute)
            own_q_CHE = q_QHE[len(q_QHE) - len(own_k_CKHE) :]
            own_logit_CKH = own_logit(own_q_CHE, own_k_CKHE.to(compute), table, plan, scale)
        keep = torch.is_grad_enabled() and plan.by_runs and plan.num_pairs * q_QHE.shape[1] <= KEPT_PAIRS
        out = BlockedAttention.apply(q_QHE, k_THE, v_THV, table, own_logit_CKH, own_v_CKHV, plan, kind, scale, keep)
    return out.to(dtype)
