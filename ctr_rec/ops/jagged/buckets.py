"""Queries against the rows of their segment, every pair of them, in buckets of nearly equal segments: the plan.

A segment and all queries that read it are a problem: Q query rows against K key rows. Problems are
sorted by size and cut into buckets; inside a bucket each is padded to the largest by repeating its own last row, so
that no row of another segment is ever read. Results lie bucket after bucket in one buffer, head before row, and one
gather (`back`) brings them into the caller's order.

Legend: N readers (impressions), L queries of each, S segments, A problems (segments with both queries and keys), B
problems of a bucket, H heads, Q and K query and key rows of a problem, M the most of either in a bucket, R rows of the
caller.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_SCORES = 1 << 18
"""Scores of a bucket, all heads: 1 MB of floats, what a second-level cache holds."""
FREE_WASTE = 1 << 14
"""Padded scores that a bucket may have in any case, about what the calls of one more bucket cost, and"""
WASTE = 0.1
"""how many it may have for each real one."""
GRADE = 1.25
"""Problems whose numbers of queries differ by less than this factor are sorted by their keys."""


@dataclass(frozen=True)
class Bucket:
    """Problems first : last of the plan, padded to `queries` x `keys` rows, and whether any of them is padding.

    query_start, key_start: where its results begin in the buffers, in rows of one head.
    """

    first: int
    last: int
    queries: int
    keys: int
    even_queries: bool
    even_keys: bool
    query_start: int
    key_start: int


@dataclass(frozen=True)
class Side:
    """Queries or keys of a plan's problems.

    begin_A, length_A: int64 [A], rows of each problem, in the order of the buckets. row_R: the caller's row of each
    row that `begin_A` counts, None where they are the same. back_RH: int64 [R, H], the buffer's row of each row of the
    caller; a row of no problem points at the last, which is zeros. size: rows of the buffer without that one.
    """

    begin_A: Tensor
    length_A: Tensor
    row_R: Tensor | None
    back_RH: Tensor
    size: int

    def rows(self, bucket: Bucket, most: int) -> Tensor:
        """The bucket's rows of a matrix [R * H, width], int64 [B * H * M]."""
        step_M = torch.arange(most, device=self.begin_A.device)
        here = slice(bucket.first, bucket.last)
        row_BM = self.begin_A[here, None] + torch.minimum(step_M, self.length_A[here, None] - 1)
        if self.row_R is not None:
            row_BM = self.row_R[row_BM]
        num_heads = self.back_RH.shape[1]
        if num_heads == 1:
            return row_BM.flatten()
        head_H1 = torch.arange(num_heads, device=row_BM.device)[:, None]
        return (row_BM[:, None] * num_heads + head_H1).flatten()

    def padding(self, bucket: Bucket, most: int) -> Tensor:
        """Where rows of the bucket are padding: bool [B, M]."""
        step_M = torch.arange(most, device=self.begin_A.device)
        return step_M >= self.length_A[bucket.first : bucket.last, None]


@dataclass(frozen=True)
class Plan:
    buckets: list[Bucket]
    queries: Side
    keys: Side


def make_plan(offsets_S1: Tensor, segment_N: Tensor | None, num_queries: int = 1, num_heads: int = 1) -> Plan:
    """Plan of N readers with L queries each; reader n reads segment segment_N[n], or segment n where that is None."""
    offsets_S1 = offsets_S1.to(torch.int64)
    num_segments = len(offsets_S1) - 1
    ordered = segment_N is None
    segment_N = torch.arange(num_segments, device=offsets_S1.device) if segment_N is None else segment_N.to(torch.int64)
    num_impressions = len(segment_N)
    count_S = torch.bincount(segment_N, minlength=num_segments)
    query_S, key_S = count_S * num_queries, offsets_S1.diff()
    active_A = _by_size(query_S, key_S)
    buckets = _cut(query_S[active_A].tolist(), key_S[active_A].tolist(), num_heads)

    first_S = count_S.cumsum(0) - count_S
    row_R, rank_N = None, None
    if not ordered:
        order_N = segment_N.argsort(stable=True)
        step_L = torch.arange(num_queries, device=order_N.device)
        row_R = (order_N[:, None] * num_queries + step_L).flatten()
        rank_N = torch.empty_like(order_N)
        rank_N[order_N] = torch.arange(num_impressions, device=order_N.device) - first_S[segment_N[order_N]]
    rank_R = torch.arange(num_queries, device=offsets_S1.device).repeat(num_impressions)
    if rank_N is not None:
        rank_R = rank_R + rank_N.repeat_interleave(num_queries) * num_queries
    queries = _side(
        (first_S * num_queries, query_S),
        active_A,
        row_R,
        (segment_N.repeat_interleave(num_queries), rank_R),
        [(b.last - b.first, b.queries, b.query_start) for b in buckets],
        num_heads,
    )
    segment_P = torch.repeat_interleave(key_S)
    rank_P = torch.arange(len(segment_P), device=segment_P.device) - offsets_S1[segment_P]
    keys = _side(
        (offsets_S1[:-1], key_S),
        active_A,
        None,
        (segment_P, rank_P),
        [(b.last - b.first, b.keys, b.key_start) for b in buckets],
        num_heads,
    )
    return Plan(buckets, queries, keys)


def pieces(bucket: Bucket, num_products: int) -> list[slice]:
    """The bucket's queries in pieces whose scores fit; one piece but for a single problem that is very large."""
    step = max(1, MOST_SCORES // (num_products * bucket.keys))
    return [slice(start, min(start + step, bucket.queries)) for start in range(0, bucket.queries, step)]


def _by_size(query_S: Tensor, key_S: Tensor) -> Tensor:
    """Segments with queries and keys, largest first: by grade of queries, then by keys."""
    active_A = ((query_S > 0) & (key_S > 0)).nonzero().squeeze(1)
    active_A = active_A[key_S[active_A].argsort(descending=True, stable=True)]
    grade_A = (query_S[active_A].log2() / math.log2(GRADE)).floor()
    return active_A[grade_A.argsort(descending=True, stable=True)]


def _cut(queries: list[int], keys: list[int], num_heads: int) -> list[Bucket]:
    """Greedy: a problem joins the bucket before it unless that would pad too much or hold too much."""
    buckets: list[Bucket] = []
    first = query_start = key_start = 0
    while first < len(queries):
        most_queries, most_keys, real, last = queries[first], keys[first], queries[first] * keys[first], first + 1
        while last < len(queries):
            wide, long = max(most_queries, queries[last]), max(most_keys, keys[last])
            padded, more = (last + 1 - first) * wide * long, real + queries[last] * keys[last]
            if padded - more > FREE_WASTE + WASTE * more or padded * num_heads > MOST_SCORES:
                break
            most_queries, most_keys, real, last = wide, long, more, last + 1
        even_queries = min(queries[first:last]) == most_queries
        even_keys = min(keys[first:last]) == most_keys
        buckets.append(Bucket(first, last, most_queries, most_keys, even_queries, even_keys, query_start, key_start))
        query_start += (last - first) * most_queries * num_heads
        key_start += (last - first) * most_keys * num_heads
        first = last
    return buckets


def _side(
    range_S: tuple[Tensor, Tensor],
    active_A: Tensor,
    row_R: Tensor | None,
    place_R: tuple[Tensor, Tensor],
    layout: list[tuple[int, int, int]],
    num_heads: int,
) -> Side:
    """range_S: begin and length of each segment's rows. place_R: segment and rank in it of each row of the caller.

    layout: of each bucket its problems, rows of each, and where it begins in the buffer.
    """
    begin_S, length_S = range_S
    segment_R, rank_R = place_R
    device = begin_S.device
    size = sum(problems * most * num_heads for problems, most, _ in layout)
    # Start of each problem's first head in the buffer, and how far its heads are apart.
    start_A = [start + i * most * num_heads for problems, most, start in layout for i in range(problems)]
    apart_A = [most for problems, most, _ in layout for _ in range(problems)]
    start_S, apart_S = torch.full_like(begin_S, size), torch.zeros_like(begin_S)
    start_S[active_A] = torch.tensor(start_A, dtype=torch.int64, device=device)
    apart_S[active_A] = torch.tensor(apart_A, dtype=torch.int64, device=device)
    inside_S = torch.zeros_like(begin_S)
    inside_S[active_A] = 1
    back_R = start_S[segment_R] + rank_R * inside_S[segment_R]
    head_H = torch.arange(num_heads, device=device)
    return Side(begin_S[active_A], length_S[active_A], row_R, back_R[:, None] + apart_S[segment_R, None] * head_H, size)
