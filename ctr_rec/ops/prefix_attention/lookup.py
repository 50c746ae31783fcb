"""Where a block's pairs find their bias, and where its gradient goes: no table, one for all queries, or one per query.

A hidden pair finds a value there that SiLU or softmax turns into an exact zero, so the mask costs nothing of its own.

Legend: H heads, E width of a head, N columns of a table, q, k and p the queries, keys and pairs of one block.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ctr_rec.ops.prefix_attention.plan import BlockPlan
from ctr_rec.ops.prefix_attention.query_runs import QueryRuns


class Lookup(Protocol):
    """Queries come scaled, in the plan's order.

    fill writes a block's bias into logit_Hqk. spread takes the logits' gradient of the block that was filled last and
    adds the bias' part to the gradient of the block's queries; before grad_Hqk its storage has room for a row of keys.
    gradient, after all blocks, adds what is left to the gradient of all queries and returns the table's.
    """

    def fill(self, index: int, q_HqE: Tensor, logit_Hqk: Tensor) -> None: ...

    def spread(self, index: int, q_HqE: Tensor, grad_Hqk: Tensor, grad_q_HqE: Tensor) -> None: ...

    def gradient(self, q_HQE: Tensor, grad_q_HQE: Tensor) -> Tensor | None: ...


def lookup(table: Tensor | None, plan: BlockPlan, q_HQE: Tensor, hidden: float) -> Lookup:
    """table: [H, N] where the plan is joint, [N, E] codes where not, or None. hidden: logit of a hidden pair."""
    if table is None:
        return NoTable(plan, hidden)
    if plan.joint:
        return SharedTable(table, plan, hidden)
    if plan.by_runs:
        return QueryRuns(table, plan, q_HQE, hidden)
    return QueryCodes(table, plan, hidden)


class NoTable:
    """0 where the key is visible."""

    def __init__(self, plan: BlockPlan, hidden: float) -> None:
        self.plan, self.hidden = plan, hidden

    def fill(self, index: int, q_HqE: Tensor, logit_Hqk: Tensor) -> None:
        hidden_qk = self.plan.columns[index].bool().view(logit_Hqk.shape[1:])
        logit_Hqk.zero_().masked_fill_(hidden_qk, self.hidden)

    def spread(self, index: int, q_HqE: Tensor, grad_Hqk: Tensor, grad_q_HqE: Tensor) -> None:
        return None

    def gradient(self, q_HQE: Tensor, grad_q_HQE: Tensor) -> None:
        return None


class SharedTable:
    """HSTU's joint table of scalars: one gather per pair and head."""

    def __init__(self, table_HN: Tensor, plan: BlockPlan, hidden: float) -> None:
        self.plan = plan
        self.table_HN = torch.cat([table_HN, table_HN.new_full((table_HN.shape[0], 1), hidden)], dim=1)
        self.grad_HN: Tensor | None = None
        self.columns_Hp = torch.empty(0, dtype=torch.int64)

    def fill(self, index: int, q_HqE: Tensor, logit_Hqk: Tensor) -> None:
        # gather and scatter want int64; the plan keeps half of that.
        self.columns_Hp = self.plan.columns[index].to(torch.int64).expand(logit_Hqk.shape[0], -1)
        torch.gather(self.table_HN, 1, self.columns_Hp, out=logit_Hqk.view(self.columns_Hp.shape))

    def spread(self, index: int, q_HqE: Tensor, grad_Hqk: Tensor, grad_q_HqE: Tensor) -> None:
        self.grad_HN = torch.zeros_like(self.table_HN) if self.grad_HN is None else self.grad_HN
        self.grad_HN.scatter_add_(1, self.columns_Hp, grad_Hqk.view(self.columns_Hp.shape))

    def gradient(self, q_HQE: Tensor, grad_q_HQE: Tensor) -> Tensor:
        return (torch.zeros_like(self.table_HN) if self.grad_HN is None else self.grad_HN)[:, :-1]


class QueryCodes:
    """GRAB's table trick: s = q B^T once per query, [H, q, N], then one gather for position and one for time.

    Nothing of size (pairs x E) exists, and nothing of size (queries x N) beyond one block.
    """

    def __init__(self, codes_NE: Tensor, plan: BlockPlan, hidden: float) -> None:
        self.plan, self.hidden = plan, hidden
        self.codes_NE = torch.cat([codes_NE, codes_NE.new_zeros(1, codes_NE.shape[1])])
        self.codes_EN = self.codes_NE.t().contiguous()
        self.grad_NE = torch.zeros_like(self.codes_NE)
        self.columns_LHqk: list[Tensor] = []

    def fill(self, index: int, q_HqE: Tensor, logit_Hqk: Tensor) -> None:
        score_HqN = torch.matmul(q_HqE, self.codes_EN)
        score_HqN[:, :, -1] = self.hidden
        columns_Lqk = self.plan.columns[index].to(torch.int64).view(-1, *logit_Hqk.shape[1:])
        self.columns_LHqk = [column_qk.expand(logit_Hqk.shape) for column_qk in columns_Lqk]
        torch.gather(score_HqN, 2, self.columns_LHqk[0], out=logit_Hqk)
        for column_Hqk in self.columns_LHqk[1:]:
            logit_Hqk.add_(score_HqN.gather(2, column_Hqk))

    def spread(self, index: int, q_HqE: Tensor, grad_Hqk: Tensor, grad_q_HqE: Tensor) -> None:
        grad_HqN = grad_Hqk.new_zeros(*grad_Hqk.shape[:2], self.codes_NE.shape[0])
        for column_Hqk in self.columns_LHqk:
            grad_HqN.scatter_add_(2, column_Hqk, grad_Hqk)
        self.grad_NE.addmm_(grad_HqN.flatten(0, 1).t(), q_HqE.flatten(0, 1))
        grad_q_HqE.add_(torch.matmul(grad_HqN, self.codes_NE))

    def gradient(self, q_HQE: Tensor, grad_q_HQE: Tensor) -> Tensor:
        return self.grad_NE[:-1]
