"""Blocks of queries against their joint span of keys: dense products on slices, no padding, linear cost with a window.

Bias and mask are one look-up (lookup.py). The backward pass is written by hand and recomputes the logits block by
block, so nothing of size (pairs) is kept between the passes.

Legend: Q queries, C queries with own keys (the last C), K own keys of each, T keys, H heads, E width of queries and
keys, V width of values, N columns or rows of the bias table; q, k and p the queries, keys and pairs of one block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu

from ctr_rec.ops.prefix_attention.lookup import lookup
from ctr_rec.ops.prefix_attention.plan import Block, BlockPlan

# SiLU(x) and its derivative are exactly 0 here, and x * 0 is not NaN as it would be at -inf.
_HIDDEN_SILU = -1e9
_HIDDEN_SOFTMAX = float("-inf")
_LOWEST_TOP = -1e30


class _Logits:
    """Fills one scratch buffer with scale q.k + bias, block after block. q_HQE: scaled."""

    def __init__(self, q_HQE: Tensor, k_HTE: Tensor, table: Tensor | None, plan: BlockPlan, kind: str):
        self.plan, self.num_heads = plan, q_HQE.shape[0]
        self.bias = lookup(table, plan, q_HQE, _HIDDEN_SILU if kind == "silu" else _HIDDEN_SOFTMAX)
        self.q_HQE = q_HQE
        self.q_blocks = plan.split_rows(q_HQE)
        self.k_HET = k_HTE.transpose(1, 2)
        self.buffer = self.scratch()

    def scratch(self) -> Tensor:
        """For the pairs of any block, behind room for a row of keys (see Lookup)."""
        return self.q_HQE.new_empty(self.plan.most_keys + self.num_heads * self.plan.largest_block)

    def pairs(self, scratch: Tensor, block: Block) -> Tensor:
        pairs_Hp = scratch.narrow(0, self.plan.most_keys, self.num_heads * block.num_pairs)
        return pairs_Hp.view(self.num_heads, block.num_rows, block.num_keys)

    def fill(self, index: int) -> Tensor:
        """Logits of one block, [H, q, k]; they live until the next call."""
        block = self.plan.blocks[index]
        logit_Hqk = self.pairs(self.buffer, block)
        self.bias.fill(index, self.q_blocks[index], logit_Hqk)
        return logit_Hqk.baddbmm_(self.q_blocks[index], self.k_HET.narrow(2, block.key_start, block.num_keys))


def _scaled(q_QHE: Tensor, scale: float, plan: BlockPlan) -> Tensor:
    """Scaled once here, queries need no scale in any product nor any gradient but their own. [H, Q, E]."""
    return plan.to_plan_order(q_QHE).transpose(0, 1) * scale


def _exp_(logit_Hqk: Tensor, own_Hq: Tensor) -> tuple[Tensor, Tensor]:
    """Turn logits into softmax weights in place, up to their denominators; returns these and their logs, [H, q].

    The own logit is counted in. A query that sees nothing has denominator 1 and log 0, so that exp(-inf - 0) is 0 again
    in the backward pass.
    """
    top_Hq = torch.maximum(logit_Hqk.amax(-1), own_Hq).clamp_(min=_LOWEST_TOP)
    total_Hq = logit_Hqk.sub_(top_Hq.unsqueeze(2)).exp_().sum(-1).add_(torch.exp(own_Hq - top_Hq))
    sees_nothing_Hq = total_Hq == 0
    total_Hq.masked_fill_(sees_nothing_Hq, 1.0)
    return total_Hq, (top_Hq + total_Hq.log()).masked_fill_(sees_nothing_Hq, 0.0)


def _softmax_own(plan: BlockPlan, own_logit_CKH: Tensor | None, like_QHE: Tensor) -> tuple[Tensor, Tensor]:
    """Own logits in the plan's order, -inf where there is none, and the log-denominators of rows without any key.

    All own keys of a query count as one logit that weighs as much.
    """
    own_QH = like_QHE.new_full(like_QHE.shape[:2], _HIDDEN_SOFTMAX)
    if own_logit_CKH is not None:
        own_QH[len(own_QH) - len(own_logit_CKH) :] = own_logit_CKH.logsumexp(1)
    own_HQ = plan.to_plan_order(own_QH).t().contiguous()
    return own_HQ, torch.where(own_HQ == _HIDDEN_SOFTMAX, 0.0, own_HQ)


def _to_logits_(grad_Hqk: Tensor, logit_Hqk: Tensor, softmax: tuple[Tensor, Tensor] | None) -> Tensor:
    """Turn the weights' gradient into the logits', and the logits into weights, both in place; returns the weights.

    softmax: log-denominator and sum(grad_out * out) of each query, [H, q, 1] each; None for SiLU.
    """
    if softmax is None:
        torch.ops.aten.silu_backward.grad_input(grad_Hqk, logit_Hqk, grad_input=grad_Hqk)
        return torch.ops.aten.silu.out(logit_Hqk, out=logit_Hqk)
    lse_Hq1, delta_Hq1 = softmax
    weight_Hqk = logit_Hqk.sub_(lse_Hq1).exp_()
    grad_Hqk.sub_(delta_Hq1).mul_(weight_Hqk)
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
    ) -> Tensor:
        q_HQE, k_HTE, v_HTV = _scaled(q_QHE, scale, plan), k_THE.transpose(0, 1), v_THV.transpose(0, 1)
        logits = _Logits(q_HQE, k_HTE, table, plan, kind)
        out_HQV = v_THV.new_empty(q_HQE.shape[0], q_HQE.shape[1], v_THV.shape[2])
        out_blocks = plan.split_rows(out_HQV)
        own_HQ = lse_HQ = None
        if kind == "softmax":
            own_HQ, lse_HQ = _softmax_own(plan, own_logit_CKH, q_QHE)
        for index, block in enumerate(plan.blocks):
            if block.num_keys == 0:
                out_blocks[index].zero_()
                continue
            weight_Hqk = logits.fill(index)
            v_HkV = v_HTV.narrow(1, block.key_start, block.num_keys)
            if own_HQ is None or lse_HQ is None:
                torch.ops.aten.silu.out(weight_Hqk, out=weight_Hqk)
                out_blocks[index].copy_(torch.bmm(weight_Hqk, v_HkV))
            else:
                rows = slice(block.start, block.stop)
                total_Hq, lse_HQ[:, rows] = _exp_(weight_Hqk, own_HQ[:, rows])
                torch.div(torch.bmm(weight_Hqk, v_HkV), total_Hq.unsqueeze(2), out=out_blocks[index])

        out_QHV = plan.to_query_order(out_HQV.transpose(0, 1))
        lse_QH = None if lse_HQ is None else plan.to_query_order(lse_HQ.t())
        _add_own_(out_QHV, own_logit_CKH, own_v_CKHV, lse_QH)
        ctx.plan, ctx.kind, ctx.scale = plan, kind, scale
        kept_out_QHV = None if kind == "silu" else out_QHV
        ctx.save_for_backward(q_QHE, k_THE, v_THV, table, own_logit_CKH, own_v_CKHV, lse_QH, kept_out_QHV)
        return out_QHV

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out_QHV: Tensor) -> tuple[Tensor | None, ...]:
        q_QHE, k_THE, v_THV, table, own_logit_CKH, own_v_CKHV, lse_QH, out_QHV = ctx.saved_tensors
        plan: BlockPlan = ctx.plan
        q_HQE, k_HTE, v_HTV = _scaled(q_QHE, ctx.scale, plan), k_THE.transpose(0, 1), v_THV.transpose(0, 1)
        grad_out_blocks = plan.split_rows(plan.to_plan_order(grad_out_QHV).transpose(0, 1))
        delta_QH = lse_HQ1 = delta_HQ1 = None
        if out_QHV is not None:
            delta_QH = (grad_out_QHV * out_QHV).sum(-1)
            lse_HQ1 = plan.to_plan_order(lse_QH).t().unsqueeze(2)
            delta_HQ1 = plan.to_plan_order(delta_QH).t().unsqueeze(2)
        logits = _Logits(q_HQE, k_HTE, table, plan, ctx.kind)
        scratch = logits.scratch()
        grad_q_HQE = torch.empty_like(q_HQE, memory_format=torch.contiguous_format)
        grad_q_blocks = plan.split_rows(grad_q_HQE)
        grad_k_HTE = torch.zeros_like(k_HTE, memory_format=torch.contiguous_format)
        grad_v_HTV = torch.zeros_like(v_HTV, memory_format=torch.contiguous_format)
        for index, block in enumerate(plan.blocks):
            if block.num_keys == 0:
                grad_q_blocks[index].zero_()
                continue
            logit_Hqk = logits.fill(index)
            grad_Hqk = logits.pairs(scratch, block)
            grad_out_HqV = grad_out_blocks[index]
            v_HkV = v_HTV.narrow(1, block.key_start, block.num_keys)
            torch.bmm(grad_out_HqV, v_HkV.transpose(1, 2), out=grad_Hqk)
            rows = slice(block.start, block.stop)
            softmax = None if lse_HQ1 is None or delta_HQ1 is None else (lse_HQ1[:, rows], delta_HQ1[:, rows])
            weight_Hqk = _to_logits_(grad_Hqk, logit_Hqk, softmax)
            _add_keys(grad_v_HTV, block, torch.bmm(weight_Hqk.transpose(1, 2), grad_out_HqV))
            _add_keys(grad_k_HTE, block, torch.bmm(grad_Hqk.transpose(1, 2), logits.q_blocks[index]))
            k_HkE = k_HTE.narrow(1, block.key_start, block.num_keys)
            grad_q_HqE = torch.bmm(grad_Hqk, k_HkE)
            logits.bias.spread(index, logits.q_blocks[index], grad_Hqk, grad_q_HqE)
            grad_q_blocks[index].copy_(grad_q_HqE)

        grad_table = logits.bias.gradient(q_HQE, grad_q_HQE)
        own = _own_backward(own_logit_CKH, own_v_CKHV, grad_out_QHV, lse_QH, delta_QH)
        return (
            plan.to_query_order(grad_q_HQE.mul_(ctx.scale).transpose(0, 1)),
            grad_k_HTE.transpose(0, 1),
            grad_v_HTV.transpose(0, 1),
            grad_table,
            *own,
            None,
            None,
            None,
        )


def _own_logit(q_CHE: Tensor, own_k_CKHE: Tensor, table: Tensor | None, plan: BlockPlan, scale: float) -> Tensor:
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
            own_logit_CKH = _own_logit(own_q_CHE, own_k_CKHE.to(compute), table, plan, scale)
        out = BlockedAttention.apply(q_QHE, k_THE, v_THV, table, own_logit_CKH, own_v_CKHV, plan, kind, scale)
    return out.to(dtype)
