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
from ctr_rec.ops.prefix_attention.blocked import Logits, own_in_plan_order, own_logit
from ctr_rec.ops.prefix_attention.plan import BlockPlan


@dataclass(frozen=True)
class BlockWeights:
    """Weights of some queries, the caller's `query_q`, over the keys key_start and on: [H, q, k], 0 where hidden.

    own_Hq: of all own keys of a query together, 0 where there is none. A query's weights and its own sum to 1, or to 0
    if it sees nothing.
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
    own_CKH = None
    if own_k_CHE is not None:
        own_k_CKHE = own_k_CHE if own_k_CHE.dim() == 4 else own_k_CHE.unsqueeze(1)
        own_CKH = own_logit(q_QHE[len(q_QHE) - len(own_k_CKHE) :], own_k_CKHE, table, plan, scale)
    own_HQ = own_in_plan_order(plan, own_CKH, q_QHE)
    order_Q = torch.arange(len(q_QHE), device=q_QHE.device) if plan.order_Q is None else plan.order_Q
    logits = Logits(q_QHE, k_THE, table, plan, "softmax", scale)
    for index, block in enumerate(plan.blocks):
        own_Hq = own_HQ[:, block.start : block.stop]
        sees = block.num_keys > 0
        logit_Hqk = logits.fill(index) / logits.unit if sees else own_Hq.new_empty(*own_Hq.shape, 0)
        lse_Hq = torch.logaddexp(logit_Hqk.logsumexp(-1), own_Hq)
        lse_Hq = lse_Hq.masked_fill(torch.isinf(lse_Hq), 0.0)  # sees nothing: exp(-inf - 0) is 0
        weight_Hqk = torch.exp(logit_Hqk - lse_Hq.unsqueeze(2))
        yield BlockWeights(order_Q[block.start : block.stop], block.key_start, weight_Hqk, torch.exp(own_Hq - lse_Hq))
