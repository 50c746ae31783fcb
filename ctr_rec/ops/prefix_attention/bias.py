"""Relative attention bias by position and by time difference: HSTU's scalars and GRAB's query-aware embeddings.

Legend: Q queries, T keys, H heads, E width of a head, P positions, B time buckets, G time edges, N = P + B code rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_HSTU_LOG_STEP = 0.301
_LARGEST_SECONDS = 2**62
_MANTISSA_BITS, _EXPONENT_BIAS = 52, 1023


@dataclass(frozen=True, kw_only=True)
class Clocks:
    """Times that a bias is looked up with, and how far apart two times are told.

    query_time_Q, key_time_T: int64 seconds; needed with a time table unless a plan made from them is passed along.
    time_edges_G: int64, ascending: the bucket is the number of edges <= seconds. None: floor(log2(1 + seconds)).
    """

    query_time_Q: Tensor | None = None
    key_time_T: Tensor | None = None
    time_edges_G: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class RelativeBias(Clocks):
    """HSTU's additive scalars, rab^{p,t} (arXiv 2402.17152): learnable tables of one layer.

    position_PH: [P, H], row clip(hi_q - j, 0, P-1): 1 for the newest visible key, 0 for a query's own key. Or None.
    time_BH: [B, H], row of the bucket of max(query_time - key_time, 0), clipped to B-1; the own key has row 0. Or None.
    """

    position_PH: Tensor | None = None
    time_BH: Tensor | None = None

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


@dataclass(frozen=True, kw_only=True)
class QueryBias(Clocks):
    """GRAB's query-aware relative embeddings: logit = scale q . (k + Pos + Time) (arXiv 2602.01865, equation of RAB).

    position_PE: [P, E], rows as in `RelativeBias`; None without. time_BE: [B, E]; None without. The heads of a layer
    share them [ours; the paper writes one code-book of the model's width]. A relative action that is the key's own
    needs no table here: added to the keys, the same code-book gives the same logits.
    """

    position_PE: Tensor | None = None
    time_BE: Tensor | None = None

    @property
    def num_positions(self) -> int:
        return 0 if self.position_PE is None else self.position_PE.shape[0]

    @property
    def num_buckets(self) -> int:
        return 0 if self.time_BE is None else self.time_BE.shape[0]

    def codes(self) -> Tensor | None:
        """Position rows, then time rows, [N, E]; None without tables."""
        found = [table for table in (self.position_PE, self.time_BE) if table is not None]
        return torch.cat(found) if found else None


Bias = RelativeBias | QueryBias


def time_bucket(seconds: Tensor, num_buckets: int, time_edges_G: Tensor | None = None) -> Tensor:
    """Bucket of each time difference (int32 or int64 seconds, negative counts as 0), int64 in 0..num_buckets-1."""
    if time_edges_G is None:
        # Below 2^53 a float64 holds an integer exactly, so its exponent bits are floor(log2).
        exact_bits = 31 if seconds.dtype == torch.int32 else _MANTISSA_BITS
        bounded = seconds.clamp(0, 2 ** min(num_buckets - 1, exact_bits) - 1).to(torch.float64)
        return bounded.add_(1.0).view(torch.int64).bitwise_right_shift_(_MANTISSA_BITS).sub_(_EXPONENT_BIAS)
    return torch.bucketize(seconds.clamp(min=0), time_edges_G, right=True).clamp_(max=num_buckets - 1)


def hstu_time_edges(num_buckets: int) -> Tensor:
    """Edges of HSTU's own buckets floor(ln(max(1, seconds)) / 0.301): bucket b starts at ceil(exp(0.301 b)) seconds.

    Source: research/modeling/sequential/hstu.py of the authors' code. int64 [at most num_buckets - 1].
    """
    starts = (math.ceil(math.exp(_HSTU_LOG_STEP * bucket)) for bucket in range(1, num_buckets))
    return torch.tensor([start for start in starts if start < _LARGEST_SECONDS], dtype=torch.int64)
