"""Relative attention bias of HSTU (arXiv 2402.17152, rab^{p,t}): additive scalars by position and by time difference.

Legend: Q queries, T keys, H heads, P positions, B time buckets, G time edges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_HSTU_LOG_STEP = 0.301
_LARGEST_SECONDS = 2**62


@dataclass(frozen=True, kw_only=True)
class RelativeBias:
    """Learnable tables of one layer and the times of the batch they are looked up with.

    position_PH: [P, H], row clip(hi_q - j, 0, P-1): 1 for the newest visible key, 0 for a query's own key. Or None.
    time_BH: [B, H], row of the bucket of max(query_time - key_time, 0), clipped to B-1; the own key has row 0. Or None.
    query_time_Q, key_time_T: int64 seconds; needed with time_BH unless a plan made from them is passed along.
    time_edges_G: int64, ascending: the bucket is the number of edges <= seconds. None: floor(log2(1 + seconds)).
    """

    position_PH: Tensor | None = None
    time_BH: Tensor | None = None
    query_time_Q: Tensor | None = None
    key_time_T: Tensor | None = None
    time_edges_G: Tensor | None = None

    @property
    def num_positions(self) -> int:
        return 0 if self.position_PH is None else self.position_PH.shape[0]

    @property
    def num_buckets(self) -> int:
        return 0 if self.time_BH is None else self.time_BH.shape[0]

    def joint_table(self) -> Tensor | None:
        """Both tables as one, [H, B*P] with column b*P + p, so that a pair needs one look-up; None without tables.

        Position runs fastest: along a query's keys it steps by one while the time bucket rarely changes, so that the
        look-ups of a row walk through neighbouring memory.
        """
        if self.position_PH is None:
            return None if self.time_BH is None else self.time_BH.t()
        if self.time_BH is None:
            return self.position_PH.t()
        return (self.time_BH.t().unsqueeze(2) + self.position_PH.t().unsqueeze(1)).flatten(1)


def floor_log2(x: Tensor) -> Tensor:
    """Exact floor(log2(x)) of positive int32 or int64, read from the exponent bits of a float.

    Clearing every bit whose left neighbour is set keeps the leading bit and lets no rounding carry into the next power.
    """
    x = x & ~(x >> 1)
    if x.dtype == torch.int32:
        return (x.to(torch.float32).view(torch.int32) >> 23) - 127
    return (x.to(torch.float64).view(torch.int64) >> 52) - 1023


def time_bucket(seconds: Tensor, num_buckets: int, time_edges_G: Tensor | None = None) -> Tensor:
    """Bucket of each time difference (int32 or int64 seconds, negative counts as 0), in 0..num_buckets-1."""
    if time_edges_G is None:
        # 1 + seconds would overflow at the largest integer, which the clamp keeps away from.
        bounded = seconds.clamp(0, torch.iinfo(seconds.dtype).max - 1)
        return floor_log2(bounded + 1).clamp_(max=num_buckets - 1)
    bucket = torch.bucketize(seconds.clamp(min=0), time_edges_G, right=True, out_int32=seconds.dtype == torch.int32)
    return bucket.clamp_(max=num_buckets - 1)


def hstu_time_edges(num_buckets: int) -> Tensor:
    """Edges of HSTU's own buckets floor(ln(max(1, seconds)) / 0.301): bucket b starts at ceil(exp(0.301 b)) seconds.

    Source: research/modeling/sequential/hstu.py of the authors' code. int64 [at most num_buckets - 1].
    """
    starts = (math.ceil(math.exp(_HSTU_LOG_STEP * bucket)) for bucket in range(1, num_buckets))
    return torch.tensor([start for start in starts if start < _LARGEST_SECONDS], dtype=torch.int64)
