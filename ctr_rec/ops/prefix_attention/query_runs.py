"""GRAB's table trick without an index per pair: contiguous copies for position, runs for time (runs.py says why).

Legend: Q queries, H heads, E width of a head, P positions, B time buckets, W the positions that occur,
falling; q, k, p and r the queries, keys, pairs and runs of one block, w its positions.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ctr_rec.ops.prefix_attention.plan import BlockPlan


class QueryRuns:
    """A `Lookup` of position and time codes, each of which may be missing.

    Time scores, few per query, are made for all queries at once, with one more that hides; position scores block by
    block, in `_Positions`.
    """

    def __init__(self, codes_NE: Tensor, plan: BlockPlan, q_HQE: Tensor, hidden: float) -> None:
        self.plan = plan
        position_PE, self.time_BE = codes_NE.split([plan.num_positions, plan.num_buckets])
        self.has_time = plan.num_buckets > 0
        if not self.has_time:
            self.time_BE = codes_NE.new_zeros(1, codes_NE.shape[1])
        self.positions = _Positions(position_PE, plan, q_HQE) if plan.num_positions else None
        self.q_HQE, self.hidden = q_HQE, hidden
        none = torch.zeros(0, dtype=torch.int64)
        self.code_HR = torch.cat([none, *(rows.code_r for rows in plan.rows)]).expand(len(q_HQE), -1)
        self.sum_HR = torch.zeros(self.code_HR.shape, dtype=q_HQE.dtype).numpy()

    @cached_property
    def run_values(self) -> npt.NDArray[np.floating]:
        """Of every run and head, [H, R]."""
        hidden_HQ1 = self.q_HQE.new_full((*self.q_HQE.shape[:2], 1), self.hidden)
        time_HQB = torch.cat([torch.matmul(self.q_HQE, self.time_BE.t()), hidden_HQ1], dim=2)
        return time_HQB.flatten(1).gather(1, self.code_HR).numpy()

    def fill(self, index: int, q_HqE: Tensor, logit_Hqk: Tensor) -> None:
        rows = self.plan.rows[index]
        time_Hp = np.repeat(self.run_values[:, rows.runs], rows.length_r, axis=1)
        time_Hqk = torch.from_numpy(time_Hp).view(logit_Hqk.shape)
        if self.positions is None:
            logit_Hqk.copy_(time_Hqk)
        else:
            torch.add(self.positions.scores(index, q_HqE), time_Hqk, out=logit_Hqk)

    def spread(self, index: int, q_HqE: Tensor, grad_Hqk: Tensor, grad_q_HqE: Tensor) -> None:
        rows = self.plan.rows[index]
        if self.has_time:
            grad_Hp = grad_Hqk.view(len(q_HqE), -1).numpy()
            np.add.reduceat(grad_Hp, rows.start_r, axis=1, out=self.sum_HR[:, rows.runs])
        if self.positions is not None:
            self.positions.spread(index, q_HqE, grad_Hqk, grad_q_HqE)

    def gradient(self, q_HQE: Tensor, grad_q_HQE: Tensor) -> Tensor:
        parts = [] if self.positions is None else [self.positions.gradient()]
        if self.has_time:
            grad_HQB = q_HQE.new_zeros(*q_HQE.shape[:2], len(self.time_BE) + 1)
            grad_HQB.flatten(1).scatter_add_(1, self.code_HR, torch.from_numpy(self.sum_HR))
            grad_HQB = grad_HQB[:, :, :-1]
            grad_q_HQE.add_(torch.matmul(grad_HQB, self.time_BE))
            parts.append(torch.matmul(grad_HQB.transpose(1, 2), q_HQE).sum(0))
        return torch.cat(parts)


class _Positions:
    """Scores of a block's queries for the positions that occur in it, falling, so that a query's scores for a row of
    keys are neighbours: one copy of a stretch. What a copy reads beyond its query's own scores lies under hidden keys.
    """

    def __init__(self, position_PE: Tensor, plan: BlockPlan, q_HQE: Tensor) -> None:
        self.plan, self.num_positions = plan, len(position_PE)
        self.widest = max((rows.width for rows in plan.rows), default=0)
        self.row_W = torch.arange(self.widest, 0, -1).clamp_(max=self.num_positions - 1)
        self.falling_WE = position_PE[self.row_W]
        self.falling_EW = self.falling_WE.t().contiguous()
        self.grad_WE = torch.zeros_like(self.falling_WE)
        num_heads = len(q_HQE)
        most = max((b.num_rows * rows.width for b, rows in zip(plan.blocks, plan.rows, strict=True)), default=0)
        # A copy may begin before the first score and end behind the last by a row of keys.
        self.scratch = q_HQE.new_zeros(num_heads * most + 2 * plan.most_keys)
        self.copied = q_HQE.new_empty(num_heads * plan.largest_block)

    def scores(self, index: int, q_HqE: Tensor) -> Tensor:
        """Each pair's, [H, q, k], and anything finite where the key is hidden. They live until the next call."""
        rows, block, num_heads = self.plan.rows[index], self.plan.blocks[index], len(q_HqE)
        width, num_keys, front = rows.width, block.num_keys, self.plan.most_keys
        score_Hqw = self.scratch.narrow(0, front, num_heads * block.num_rows * width).view(num_heads, -1, width)
        codes_Ew = self.falling_EW.narrow(1, self.widest - width, width)
        torch.bmm(q_HqE, codes_Ew.expand(num_heads, -1, -1), out=score_Hqw)
        # Row i of this view is the stretch that begins num_keys before score i.
        stretches = self.scratch.as_strided((score_Hqw.numel() + num_keys + 1, num_keys), (1, 1), front - num_keys)
        copied_Xk = self.copied.narrow(0, 0, num_heads * block.num_pairs).view(-1, num_keys)
        torch.index_select(stretches, 0, rows.places(num_heads, width, 1, num_keys), out=copied_Xk)
        return copied_Xk.view(num_heads, -1, num_keys)

    def spread(self, index: int, q_HqE: Tensor, grad_Hqk: Tensor, grad_q_HqE: Tensor) -> None:
        """The same copies the other way: each query's gradients for a row of keys, read as a row of positions.

        Left of its own keys a row reads the end of the row above. That is zero: the row above has no larger hi and no
        query of the block sees more than `width` keys, so none of those is visible to it. Only a head's first row
        stands below another head's last.
        """
        rows, num_heads = self.plan.rows[index], len(q_HqE)
        width, num_keys = rows.width, grad_Hqk.shape[2]
        stretches = grad_Hqk.as_strided((grad_Hqk.numel() + 1, width), (1, 1), int(grad_Hqk.storage_offset()) - width)
        grad_Xw = torch.index_select(stretches, 0, rows.places(num_heads, num_keys, -1, width))
        grad_Hqw = grad_Xw.view(num_heads, -1, width)
        grad_Hqw[:, 0, : max(0, rows.first_shift)] = 0.0
        place = self.widest - width
        self.grad_WE.narrow(0, place, width).addmm_(grad_Xw.t(), q_HqE.flatten(0, 1))
        grad_q_HqE.baddbmm_(grad_Hqw, self.falling_WE.narrow(0, place, width).expand(num_heads, -1, -1))

    def gradient(self) -> Tensor:
        grad_PE = self.grad_WE.new_zeros(self.num_positions, self.grad_WE.shape[1])
        return grad_PE.index_add_(0, self.row_W, self.grad_WE)
