"""The softmax weights themselves, for looking inside: block after block, so that memory stays that of a block.

Legend: Q queries, C queries with an own key (the last C), T keys, H heads, E width of queries and keys; q and k the
queries and keys of one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ctr_rec.ops.prefix_attention.bias import Bias, QueryBias
from ctr_rec.ops.prefix_attention.blocked import _exp_, _Logits, _own_logit, _softmax_own
from ctr_rec.ops.prefix_attention.plan import BlockPlan


@dataclass(frozen=True)
class BlockWeights:
    """Weights of some queries, the caller's `query_q`, over the keys key_start and on: [H, q, k], 0 where hidden.

    own_Hq: of the queries' own keys, 0 where there is none. A query's weights and its own sum to 1, or to 0 if it sees
    nothing. They live until the next block is asked for.
    """

    query_q: Tensor
    key_start: int
    weight_Hqk: Tensor
    own_Hq: Tensor


@torch.no_grad()
def softmax_weights(
    q_QHE: Tensor, k_THE: Tensor, own_k_CHE: Tensor | None, bias: Bias | None, *, scale: float, plan: BlockPlan
) -> Iterator[BlockWeights]:
    """What `prefix_attention` of kind "softmax" weighs values with. Arguments as there; in any floating dtype."""
    table = None if bias is None else bias.codes() if isinstance(bias, QueryBias) else bias.joint_table()
    own_CH = None
    if own_k_CHE is not None:
        own_CH = _own_logit(q_QHE[len(q_QHE) - len(own_k_CHE) :], own_k_CHE, table, plan, scale)
    own_HQ, _ = _softmax_own(plan, own_CH, q_QHE)
    q_HQE, k_HTE = plan.to_plan_order(q_QHE).transpose(0, 1), k_THE.transpose(0, 1)
    order_Q = torch.arange(len(q_QHE), device=q_QHE.device) if plan.order_Q is None else plan.order_Q
    logits = _Logits(q_HQE, k_HTE, table, plan, "softmax", scale)
    for index, block in enumerate(plan.blocks):
        own_Hq = own_HQ[:, block.start : block.stop]
        if block.num_keys == 0:
            weight_Hqk = own_Hq.new_zeros(*own_Hq.shape, 0)
            own_Hq = torch.isfinite(own_Hq).to(own_Hq.dtype)
        else:
            weight_Hqk = logits.fill(index)
            total_Hq, lse_Hq = _exp_(weight_Hqk, own_Hq)
            weight_Hqk.div_(total_Hq.unsqueeze(2))
            own_Hq = torch.exp(own_Hq - lse_Hq)
        yield BlockWeights(order_Q[block.start : block.stop], block.key_start, weight_Hqk, own_Hq)
