"""How the queries are cut into blocks, and where each pair of a block finds its bias.

Made once per batch and shared by all layers and by the backward pass. Legend: Q queries, T keys, P positions,
B time buckets, G time edges, q and k the queries and keys of one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from ctr_rec.ops.prefix_attention.bias import time_bucket
from ctr_rec.ops.prefix_attention.blocks import Block, BlockLimits, Int64, cut
from ctr_rec.ops.prefix_attention.runs import Rows, block_rows

_INT32_SPAN = 2**31 - 2


def _select_rows(x_Q: Tensor, index_Q: Tensor) -> Tensor:
    """x_Q[index_Q] by whole rows: on CPU index_select copies a matrix 5 to 30 times faster than a tensor of 3 dims."""
    return x_Q.reshape(len(index_Q), -1).index_select(0, index_Q).view(x_Q.shape)


@dataclass(frozen=True, kw_only=True)
class BlockPlan:
    """A partition of the queries into blocks, and the column of the joint bias table for each of their pairs.

    order_Q: queries in the order of their ranges, where neighbours share keys; rank_Q is its inverse. None: as given.
    columns: one int32 tensor per block, a place in the bias table for each pair.
        joint: [1, q*k], bucket * P + position (see RelativeBias.joint_table; without tables 0), or the hidden column
        B*P where the key is not visible.
        else: [1 or 2, q*k], position and, with time, P + bucket (see QueryBias.codes), or the hidden column P + B.
    by_runs: the blocks have `rows` in place of columns (see runs.py).
    """

    lo_Q: Tensor
    hi_Q: Tensor
    num_keys: int
    num_positions: int
    num_buckets: int
    joint: bool
    by_runs: bool
    order_Q: Tensor | None
    rank_Q: Tensor | None
    blocks: tuple[Block, ...]
    columns: tuple[Tensor, ...]
    rows: tuple[Rows, ...]

    @cached_property
    def first_pairs(self) -> tuple[int, ...]:
        """Pairs of the blocks before each block."""
        return tuple(accumulate((block.num_pairs for block in self.blocks), initial=0))

    @property
    def num_pairs(self) -> int:
        """Pairs computed, visible or not."""
        return sum(block.num_pairs for block in self.blocks)

    @property
    def num_visible_pairs(self) -> int:
        return int((self.hi_Q - self.lo_Q).sum())

    @cached_property
    def most_keys(self) -> int:
        """Of one block."""
        return max((block.num_keys for block in self.blocks), default=0)

    @cached_property
    def largest_block(self) -> int:
        return max((block.num_pairs for block in self.blocks), default=0)

    def split_rows(self, x_HQW: Tensor) -> tuple[Tensor, ...]:
        """The rows of each block, views [H, q, W] of a tensor in the plan's order."""
        return x_HQW.split([block.num_rows for block in self.blocks], dim=1) if self.blocks else (x_HQW,)

    def to_plan_order(self, x_Q: Tensor) -> Tensor:
        """Rows (dimension 0) from the caller's order into the blocks' order."""
        return x_Q if self.order_Q is None else _select_rows(x_Q, self.order_Q)

    def to_query_order(self, x_Q: Tensor) -> Tensor:
        """The inverse of to_plan_order."""
        return x_Q if self.rank_Q is None else _select_rows(x_Q, self.rank_Q)


def check_ranges(lo_Q: Int64, hi_Q: Int64, num_keys: int) -> None:
    if lo_Q.shape != hi_Q.shape or lo_Q.ndim != 1:
        raise ValueError(f"lo_Q and hi_Q must be vectors of one length, got shapes {lo_Q.shape} and {hi_Q.shape}")
    wrong = np.flatnonzero((lo_Q < 0) | (lo_Q > hi_Q) | (hi_Q > num_keys))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"every query needs 0 <= lo <= hi <= {num_keys} keys, got lo={lo_Q[row]}, hi={hi_Q[row]} at query {row} "
            f"({len(wrong)} such queries); an empty range is lo == hi"
        )


def check_times(
    query_time_Q: Tensor | None, key_time_T: Tensor | None, num_queries: int, num_keys: int
) -> tuple[Tensor, Tensor]:
    """Both times. Raises ValueError where one is missing or has another length."""
    if query_time_Q is None or key_time_T is None:
        raise ValueError("a time bias needs query_time_Q and key_time_T (int64 seconds), got None; pass both times")
    if query_time_Q.shape != (num_queries,) or key_time_T.shape != (num_keys,):
        raise ValueError(
            f"query_time_Q and key_time_T must have shapes ({num_queries},) and ({num_keys},), "
            f"got {tuple(query_time_Q.shape)} and {tuple(key_time_T.shape)}"
        )
    return query_time_Q, key_time_T


def relative_times(query_time_Q: Tensor, key_time_T: Tensor) -> tuple[Tensor, Tensor]:
    """Times as int32 from their common start where their span allows it: half the memory traffic."""
    times = torch.cat([query_time_Q, key_time_T])
    if times.numel() == 0:
        return query_time_Q, key_time_T
    start, end = (int(bound) for bound in times.aminmax())
    dtype = torch.int32 if end - start <= _INT32_SPAN else torch.int64
    return (query_time_Q - start).to(dtype), (key_time_T - start).to(dtype)


def plan_blocks(
    lo_Q: Tensor,
    hi_Q: Tensor,
    num_keys: int,
    *,
    num_positions: int = 0,
    num_buckets: int = 0,
    query_time_Q: Tensor | None = None,
    key_time_T: Tensor | None = None,
    time_edges_G: Tensor | None = None,
    joint: bool = True,
    by_runs: bool | None = None,
    limits: BlockLimits | None = None,
) -> BlockPlan:
    """Cut the queries into blocks and look up, for every pair, its place in the bias table.

    lo_Q, hi_Q: int64 [Q], visible keys lo:hi of each query. num_positions, num_buckets: rows of the bias tables, 0 for
    none. Times are int64 seconds, needed with num_buckets; time_edges_G as in RelativeBias. joint: for a RelativeBias,
    whose tables are looked up as one; False for a QueryBias. by_runs: for a QueryBias, see BlockPlan; None: on the CPU.
    The queries may come in any order, history before candidates or mixed. The block bounds are made on the CPU.

    Raises ValueError when a range is reversed or leaves the keys, or when times are missing or have another length.
    """
    lo, hi = lo_Q.detach().cpu().numpy(), hi_Q.detach().cpu().numpy()
    check_ranges(lo, hi, num_keys)
    if num_buckets:
        query_time_Q, key_time_T = relative_times(*check_times(query_time_Q, key_time_T, len(lo), num_keys))
    else:
        query_time_Q = key_time_T = None
    order = np.argsort(hi, kind="stable")
    if np.array_equal(order, np.arange(len(order))):
        order_Q = rank_Q = None
    else:
        lo, hi = lo[order], hi[order]
        order_Q = torch.from_numpy(order).to(lo_Q.device)
        rank_Q = torch.empty_like(order_Q)
        rank_Q[order_Q] = torch.arange(len(order), device=lo_Q.device)
    blocks = tuple(cut(lo, hi, num_keys, limits or BlockLimits.for_device(lo_Q.device)))
    joint = joint or not (num_positions or num_buckets)
    by_runs = not joint and (lo_Q.device.type == "cpu" if by_runs is None else by_runs)
    plan = BlockPlan(
        lo_Q=lo_Q,
        hi_Q=hi_Q,
        num_keys=num_keys,
        num_positions=num_positions,
        num_buckets=num_buckets,
        joint=joint,
        by_runs=by_runs,
        order_Q=order_Q,
        rank_Q=rank_Q,
        blocks=blocks,
        columns=(),
        rows=(),
    )
    if by_runs:
        return replace(plan, rows=tuple(_rows(plan, query_time_Q, key_time_T, time_edges_G)))
    return replace(plan, columns=tuple(_columns(plan, query_time_Q, key_time_T, time_edges_G)))


def _rows(
    plan: BlockPlan, query_time_Q: Tensor | None, key_time_T: Tensor | None, time_edges_G: Tensor | None
) -> Iterator[Rows]:
    lo_Q, hi_Q = plan.to_plan_order(plan.lo_Q), plan.to_plan_order(plan.hi_Q)
    time_Q = None if query_time_Q is None else plan.to_plan_order(query_time_Q)
    return block_rows(plan.blocks, lo_Q, hi_Q, time_Q, key_time_T, time_edges_G, max(plan.num_buckets, 1))


def _columns(
    plan: BlockPlan, query_time_Q: Tensor | None, key_time_T: Tensor | None, time_edges_G: Tensor | None
) -> Iterator[Tensor]:
    """The columns of each block's pairs."""
    positions, buckets = max(plan.num_positions, 1), max(plan.num_buckets, 1)
    hidden = positions * buckets if plan.joint else plan.num_positions + plan.num_buckets
    hi_Q1 = plan.to_plan_order(plan.hi_Q).to(torch.int32).unsqueeze(1)
    width_Q1 = plan.to_plan_order(plan.hi_Q - plan.lo_Q).to(torch.int32).unsqueeze(1)
    key_T = torch.arange(plan.num_keys, dtype=torch.int32, device=plan.hi_Q.device)
    time_Q1 = None if query_time_Q is None else plan.to_plan_order(query_time_Q).unsqueeze(1)
    for block in plan.blocks:
        rows, keys = slice(block.start, block.stop), slice(block.key_start, block.key_stop)
        distance_qk = hi_Q1[rows] - key_T[keys]
        hidden_qk = (distance_qk <= 0).logical_or_(distance_qk > width_Q1[rows])
        found = [distance_qk.clamp_(0, positions - 1)] if plan.num_positions or time_Q1 is None or plan.joint else []
        if time_Q1 is not None and key_time_T is not None:
            bucket_qk = time_bucket(time_Q1[rows] - key_time_T[keys], plan.num_buckets, time_edges_G).to(torch.int32)
            if plan.joint:
                found[0].add_(bucket_qk, alpha=positions)
            else:
                found.append(bucket_qk.add_(plan.num_positions))
        found[0].masked_fill_(hidden_qk, hidden)
        yield found[0].view(1, -1) if len(found) == 1 else torch.stack(found).flatten(1)
