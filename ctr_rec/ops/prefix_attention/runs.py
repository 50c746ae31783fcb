"""How a block's queries find query-aware codes without an index per pair: rows of positions, runs of time buckets.

Position is hi - j: along a query's keys it falls by one at each step, so its scores are one contiguous stretch of that
query's scores over all positions, and only where the stretch begins differs. Time buckets change rarely along a row, so
a row is a few runs of one value each. The hidden parts of a row are runs too: the mask costs nothing of its own.

    hi = 4, keys 0..5, lo = 1        positions  . 3 2 1 . .       buckets  H 7 7 2 H H: runs H, 7, 2, H of 1, 2, 1, 2

Made for the CPU, where a gather or a scatter costs 3 to 10 times as much per pair as these copies; a GPU looks up
columns instead (plan.py).

Legend: Q queries, B time buckets, q, k and r the queries, keys and runs of one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ctr_rec.ops.prefix_attention.bias import time_bucket
from ctr_rec.ops.prefix_attention.blocks import Block

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """One block.

    width: the most keys that one of its queries sees; positions width..1 are scored, newest last.
    shift_q: int64, where in a query's scores the block's first key would stand; negative when before them. It falls
        from row to row, as the queries stand in the order of hi, which `QueryRuns` relies on.
    start_r, length_r: int64, the runs over the pairs of the block, row by row. code_r: query * (B + 1) + bucket, or B
        where the keys are hidden; int64, the queries counted from the first of all blocks.
    runs: where these runs stand among those of all blocks.
    """

    width: int
    shift_q: Tensor
    start_r: Int64
    length_r: Int64
    code_r: Tensor
    runs: slice
    first_shift: int
    _places: dict[tuple[int, int, int, int], Tensor] = field(default_factory=dict, repr=False)

    def places(self, num_heads: int, stride: int, sign: int, start: int) -> Tensor:
        """start + stride * row + sign * shift for every head and query, [heads * q]; made once for all layers."""
        key = (num_heads, stride, sign, start)
        if key not in self._places:
            row_Hq = torch.arange(num_heads * len(self.shift_q)).view(num_heads, -1) * stride + start
            self._places[key] = (row_Hq + self.shift_q * sign).view(-1)
        return self._places[key]


def block_rows(
    blocks: tuple[Block, ...],
    lo_Q: Tensor,
    hi_Q: Tensor,
    query_time_Q: Tensor | None,
    key_time_T: Tensor | None,
    time_edges_G: Tensor | None,
    num_buckets: int,
) -> Iterator[Rows]:
    """Rows of each block; ranges and times in the plan's order. num_buckets: 1 without times."""
    seen_Q, first_run = hi_Q - lo_Q, 0
    for block in blocks:
        queries, num_keys = slice(block.start, block.stop), block.num_keys
        # From the block's first key on. A query that sees nothing may stand outside the span.
        hi_q1 = (hi_Q[queries, None] - block.key_start).clamp_(0, num_keys)
        lo_q1 = hi_q1 - seen_Q[queries, None]
        width = int(seen_Q[queries].max())
        key_k = torch.arange(num_keys)
        code_qk = torch.where((key_k < hi_q1) & (key_k >= lo_q1), 0, num_buckets)
        if query_time_Q is not None and key_time_T is not None:
            seconds_qk = query_time_Q[queries, None] - key_time_T[block.key_start : block.key_stop]
            bucket_qk = time_bucket(seconds_qk, num_buckets, time_edges_G)
            code_qk = torch.maximum(bucket_qk, code_qk)
        rows = _rows(code_qk, width, width - hi_q1.squeeze(1), block.start * (num_buckets + 1), num_buckets, first_run)
        first_run = rows.runs.stop
        yield rows


def _rows(code_qk: Tensor, width: int, shift_q: Tensor, first_code: int, num_buckets: int, first_run: int) -> Rows:
    codes = code_qk.numpy()
    changes = np.ones(codes.shape, dtype=np.bool_)
    np.not_equal(codes[:, 1:], codes[:, :-1], out=changes[:, 1:])
    start_r = np.flatnonzero(changes)
    length_r = np.diff(start_r, append=codes.size)
    row_r = start_r // max(codes.shape[1], 1)
    code_r = codes.reshape(-1)[start_r] + (row_r * (num_buckets + 1) + first_code)
    return Rows(
        width=width,
        shift_q=shift_q,
        first_shift=int(shift_q[0]),
        start_r=start_r,
        length_r=length_r,
        code_r=torch.from_numpy(code_r),
        runs=slice(first_run, first_run + len(start_r)),
    )
