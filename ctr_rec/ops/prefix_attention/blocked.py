"""Blocks of queries against their joint span of keys: dense products on slices, no padding, linear cost with a window.

The mask costs nothing of its own: every pair's bias is looked up in a joint table, and a hidden pair finds there a
value that SiLU or softmax turns into an exact zero, in the weight and in its derivative. The backward pass is written
by hand and recomputes the logits block by block, so nothing of size (pairs) is kept between the passes.

Legend: Q queries, T keys, H heads, E width of queries and keys, V width of values, N columns of the joint bias table,
q and k the queries and keys of one block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu

from ctr_rec.ops.prefix_attention.plan import BlockPlan

# SiLU(x) and its derivative are exactly 0 here, and x * 0 is not NaN as it would be at -inf.
_HIDDEN_SILU = -1e9
_HIDDEN_SOFTMAX = float("-inf")
_LOWEST_MAX = -1e30


class _Logits:
    """Fills scratch with scale q.k + bias of one block after another."""

    def __init__(self, q_HQE: Tensor, k_HTE: Tensor, table_HN: Tensor | None, plan: BlockPlan, kind: str, scale: float):
        self.q_HQE, self.k_HTE, self.plan, self.scale = q_HQE, k_HTE, plan, scale
        self.num_heads = q_HQE.shape[0]
        self.hidden = _HIDDEN_SILU if kind == "silu" else _HIDDEN_SOFTMAX
        self.table_HN = table_HN
        if table_HN is not None:
            self.table_HN = torch.cat([table_HN, table_HN.new_full((self.num_heads, 1), self.hidden)], dim=1)
        self.buffer = q_HQE.new_empty(self.num_heads * plan.largest_block)

    def scratch(self) -> Tensor:
        return torch.empty_like(self.buffer)

    def column(self, index: int) -> Tensor:
        """Columns of the block's pairs for gather and scatter over [H, q*k], which accept int64 only."""
        return self.plan.columns[index].to(torch.int64).view(1, -1).expand(self.num_heads, -1)

    def fill(self, index: int, column_Hp: Tensor | None) -> Tensor:
        """Logits of one block, [H, q, k], a view of the buffer that lives until the next call."""
        block = self.plan.blocks[index]
        rows, keys = block.stop - block.start, block.key_stop - block.key_start
        flat = self.buffer[: self.num_heads * block.num_pairs]
        logit_Hqk = flat.view(self.num_heads, rows, keys)
        if self.table_HN is None:
            hidden_qk = self.plan.columns[index] == self.plan.hidden_column
            logit_Hqk.copy_(torch.zeros_like(hidden_qk, dtype=flat.dtype).masked_fill_(hidden_qk, self.hidden))
        else:
            assert column_Hp is not None
            torch.gather(self.table_HN, 1, column_Hp, out=flat.view(self.num_heads, -1))
        q_HqE = self.q_HQE[:, block.start : block.stop]
        k_HEk = self.k_HTE[:, block.key_start : block.key_stop].transpose(1, 2)
        return logit_Hqk.baddbmm_(q_HqE, k_HEk, alpha=self.scale)


class BlockedAttention(torch.autograd.Function):
    """Weighted sum of visible values, [Q, H, V]; for softmax the query's own key joins the normalisation."""

    @staticmethod
    def forward(
        ctx: Any,
        q_QHE: Tensor,
        k_THE: Tensor,
        v_THV: Tensor,
        table_HN: Tensor | None,
        own_logit_QH: Tensor | None,
        own_v_QHV: Tensor | None,
        plan: BlockPlan,
        kind: str,
        scale: float,
    ) -> Tensor:
        q_HQE, k_HTE, v_HTV = q_QHE.transpose(0, 1), k_THE.transpose(0, 1), v_THV.transpose(0, 1)
        num_queries, num_heads, _ = q_QHE.shape
        logits = _Logits(q_HQE, k_HTE, table_HN, plan, kind, scale)
        out_HQV = v_THV.new_zeros(num_heads, num_queries, v_THV.shape[2])
        # log of the softmax denominator; a query that sees nothing keeps 0, so that exp(-inf - 0) is 0.
        lse_HQ = None if kind == "silu" else q_QHE.new_zeros(num_heads, num_queries)
        if lse_HQ is not None and own_logit_QH is not None:
            lse_HQ.copy_(own_logit_QH.t())
        for index, block in enumerate(plan.blocks):
            rows, keys = slice(block.start, block.stop), slice(block.key_start, block.key_stop)
            weight_Hqk = logits.fill(index, None if table_HN is None else logits.column(index))
            if lse_HQ is None:
                torch.ops.aten.silu.out(weight_Hqk, out=weight_Hqk)
            else:
                own_Hq = None if own_logit_QH is None else own_logit_QH[rows].t()
                lse_HQ[:, rows] = _softmax_(weight_Hqk, own_Hq)
            out_HQV[:, rows] = torch.bmm(weight_Hqk, v_HTV[:, keys])
        if lse_HQ is not None and own_logit_QH is not None and own_v_QHV is not None:
            own_weight_HQ = torch.exp(own_logit_QH.t() - lse_HQ)
            out_HQV.addcmul_(own_weight_HQ.unsqueeze(2), own_v_QHV.transpose(0, 1))
        ctx.plan, ctx.kind, ctx.scale = plan, kind, scale
        kept_out_HQV = None if kind == "silu" else out_HQV
        ctx.save_for_backward(q_QHE, k_THE, v_THV, table_HN, own_logit_QH, own_v_QHV, lse_HQ, kept_out_HQV)
        return out_HQV.transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out_QHV: Tensor) -> tuple[Tensor | None, ...]:
        q_QHE, k_THE, v_THV, table_HN, own_logit_QH, own_v_QHV, lse_HQ, out_HQV = ctx.saved_tensors
        q_HQE, k_HTE, v_HTV = q_QHE.transpose(0, 1), k_THE.transpose(0, 1), v_THV.transpose(0, 1)
        grad_out_HQV = grad_out_QHV.transpose(0, 1)
        logits = _Logits(q_HQE, k_HTE, table_HN, ctx.plan, ctx.kind, ctx.scale)
        weights, grads = logits.scratch(), logits.scratch()
        grad_q_HQE = torch.zeros_like(q_HQE, memory_format=torch.contiguous_format)
        grad_k_HTE = torch.zeros_like(k_HTE, memory_format=torch.contiguous_format)
        grad_v_HTV = torch.zeros_like(v_HTV, memory_format=torch.contiguous_format)
        grad_table_HN = None
        if table_HN is not None and ctx.needs_input_grad[3]:
            grad_table_HN = table_HN.new_zeros(table_HN.shape[0], table_HN.shape[1] + 1)
        delta_HQ = None if lse_HQ is None else (grad_out_HQV * out_HQV).sum(-1)

        for index, block in enumerate(ctx.plan.blocks):
            rows, keys = slice(block.start, block.stop), slice(block.key_start, block.key_stop)
            column_Hp = None if table_HN is None else logits.column(index)
            logit_Hqk = logits.fill(index, column_Hp)
            weight_Hqk = weights[: logit_Hqk.numel()].view_as(logit_Hqk)
            grad_Hqk = grads[: logit_Hqk.numel()].view_as(logit_Hqk)
            grad_out_HqV = grad_out_HQV[:, rows]
            torch.bmm(grad_out_HqV, v_HTV[:, keys].transpose(1, 2), out=grad_Hqk)
            if lse_HQ is None or delta_HQ is None:
                torch.ops.aten.silu.out(logit_Hqk, out=weight_Hqk)
                torch.ops.aten.silu_backward.grad_input(grad_Hqk, logit_Hqk, grad_input=grad_Hqk)
            else:
                torch.sub(logit_Hqk, lse_HQ[:, rows, None], out=weight_Hqk).exp_()
                grad_Hqk.sub_(delta_HQ[:, rows, None]).mul_(weight_Hqk)
            grad_v_HTV[:, keys].baddbmm_(weight_Hqk.transpose(1, 2), grad_out_HqV)
            grad_k_HTE[:, keys].baddbmm_(grad_Hqk.transpose(1, 2), q_HQE[:, rows], alpha=ctx.scale)
            grad_q_HQE[:, rows] = torch.bmm(grad_Hqk, k_HTE[:, keys])
            if grad_table_HN is not None:
                grad_table_HN.scatter_add_(1, column_Hp, grad_Hqk.view(grad_Hqk.shape[0], -1))

        grad_own_logit_QH = grad_own_v_QHV = None
        if own_logit_QH is not None and own_v_QHV is not None and lse_HQ is not None and delta_HQ is not None:
            own_weight_QH = torch.exp(own_logit_QH - lse_HQ.t())
            grad_own_v_QHV = own_weight_QH.unsqueeze(2) * grad_out_QHV
            grad_own_logit_QH = own_weight_QH * ((grad_out_QHV * own_v_QHV).sum(-1) - delta_HQ.t())
        return (
            grad_q_HQE.mul_(ctx.scale).transpose(0, 1),
            grad_k_HTE.transpose(0, 1),
            grad_v_HTV.transpose(0, 1),
            None if grad_table_HN is None else grad_table_HN[:, :-1],
            grad_own_logit_QH,
            grad_own_v_QHV,
            None,
            None,
            None,
        )


def _softmax_(logit_Hqk: Tensor, own_Hq: Tensor | None) -> Tensor:
    """Turn logits into weights in place, the own logit counted in; the log of each denominator, [H, q]."""
    top_Hq = logit_Hqk.amax(-1).clamp_(min=_LOWEST_MAX)
    if own_Hq is not None:
        top_Hq = torch.maximum(top_Hq, own_Hq)
    total_Hq = logit_Hqk.sub_(top_Hq.unsqueeze(2)).exp_().sum(-1)
    if own_Hq is not None:
        total_Hq += torch.exp(own_Hq - top_Hq)
    sees_nothing_Hq = total_Hq == 0
    logit_Hqk.div_(total_Hq.masked_fill(sees_nothing_Hq, 1.0).unsqueeze(2))
    return (top_Hq + total_Hq.log()).masked_fill_(sees_nothing_Hq, 0.0)


def blocked_prefix_attention(
    q_QHE: Tensor,
    k_THE: Tensor,
    v_THV: Tensor,
    own_k_QHE: Tensor | None,
    own_v_QHV: Tensor | None,
    table_HN: Tensor | None,
    plan: BlockPlan,
    *,
    kind: str,
    scale: float,
) -> Tensor:
    """The same as reference_prefix_attention, with the joint bias table and the plan in place of ranges and bias.

    Half-precision inputs are computed in float32 and returned in their own dtype.
    """
    dtype = v_THV.dtype
    compute = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    q_QHE, k_THE, v_THV = q_QHE.to(compute), k_THE.to(compute), v_THV.to(compute)
    table_HN = None if table_HN is None else table_HN.to(compute)
    own_logit_QH = None
    if own_k_QHE is not None:
        assert own_v_QHV is not None
        own_v_QHV = own_v_QHV.to(compute)
        own_logit_QH = scale * (q_QHE * own_k_QHE.to(compute)).sum(-1)
        if table_HN is not None:
            own_logit_QH = own_logit_QH + table_HN[:, 0]
    if kind == "softmax":
        out = BlockedAttention.apply(q_QHE, k_THE, v_THV, table_HN, own_logit_QH, own_v_QHV, plan, kind, scale)
        return out.to(dtype)
    out_QHV = BlockedAttention.apply(q_QHE, k_THE, v_THV, table_HN, None, None, plan, kind, scale)
    if own_logit_QH is not None and own_v_QHV is not None:
        out_QHV = out_QHV + silu(own_logit_QH).unsqueeze(2) * own_v_QHV
    return out_QHV.to(dtype)
