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
    hi, seen, first_run = hi_Q.numpy(), (hi_Q - lo_Q).numpy().astype(np.int32), 0
    key_T = np.arange(max((block.num_keys for block in blocks), default=0), dtype=np.int32)
    for block in blocks:
        queries, num_keys = slice(block.start, block.stop), block.num_keys
        # From the block's first key on. A query that sees nothing may stand outside the span.
        hi_q = np.clip(hi[queries] - block.key_start, 0, num_keys).astype(np.int32)
        seen_q, width = seen[queries], int(seen[queries].max())
        code_qk = np.zeros((len(hi_q), num_keys), dtype=np.int16)
        if query_time_Q is not None and key_time_T is not None:
            seconds_qk = query_time_Q[queries, None] - key_time_T[block.key_start : block.key_stop]
            code_qk = time_bucket(seconds_qk, num_buckets, time_edges_G).to(torch.int16).numpy()
        # Keys before lo wrap around to large numbers, so that one comparison finds both hidden ends.
        after_lo_qk = (key_T[:num_keys] - (hi_q - seen_q)[:, None]).view(np.uint32)
        np.copyto(code_qk, num_buckets, where=after_lo_qk >= seen_q.view(np.uint32)[:, None])
        shift_q = torch.from_numpy(width - hi_q.astype(np.int64))
        rows = _rows(code_qk, width, shift_q, block.start * (num_buckets + 1), num_buckets, first_run)
        first_run = rows.runs.stop
        yield rows


def _rows(
    code_qk: npt.NDArray[np.int16], width: int, shift_q: Tensor, first_code: int, num_buckets: int, first_run: int
) -> Rows:
    changes = np.ones(code_qk.shape, dtype=np.bool_)
    np.not_equal(code_qk[:, 1:], code_qk[:, :-1], out=changes[:, 1:])
    start_r = np.flatnonzero(changes)
    length_r = np.empty_like(start_r)
    np.subtract(start_r[1:], start_r[:-1], out=length_r[:-1])
    length_r[-1:] = code_qk.size - start_r[-1:]
    row_r = start_r // max(code_qk.shape[1], 1)
    code_r = code_qk.reshape(-1)[start_r] + (row_r * (num_buckets + 1) + first_code)
    return Rows(
        width=width,
        shift_q=shift_q,
        start_r=start_r,
        length_r=length_r,
        code_r=torch.from_numpy(code_r),
        runs=slice(first_run, first_run + len(start_r)),
        first_shift=int(shift_q[0]),
    )
