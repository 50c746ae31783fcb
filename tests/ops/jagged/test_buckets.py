"""The plan of buckets: every pair once, every row back where it came from, and padding within its limits."""

from __future__ import annotations

import pytest
import torch

from ctr_rec.ops.jagged import buckets
from ctr_rec.ops.jagged.buckets import make_plan, pieces

OFFSETS = torch.tensor([0, 4, 4, 5, 14, 23, 25])
SEGMENTS = {
    "own": None,
    "shared": torch.tensor([3, 0, 3, 1, 5, 5, 0, 3, 3]),
    "nobody": torch.tensor([], dtype=torch.int64),
}


@pytest.mark.parametrize("most", [20, 10_000])
@pytest.mark.parametrize("num_heads", [1, 3])
@pytest.mark.parametrize("segments", SEGMENTS)
def test_rows_go_out_and_come_back(segments: str, num_heads: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "MOST_SCORES", most)
    segment_N, num_queries = SEGMENTS[segments], 2
    plan = make_plan(OFFSETS, segment_N, num_queries, num_heads)
    read = torch.arange(6) if segment_N is None else segment_N
    active = {s for s in read.tolist() if OFFSETS[s + 1] > OFFSETS[s]}
    assert sum(b.last - b.first for b in plan.buckets) == len(active)
    segment_P = torch.repeat_interleave(OFFSETS.diff())
    for side, segment_R in ((plan.queries, read.repeat_interleave(num_queries)), (plan.keys, segment_P)):
        own = torch.arange(len(segment_R) * num_heads)
        buffer = torch.full((side.size + 1,), -1)
        for bucket in plan.buckets:
            most_rows, start = (
                (bucket.queries, bucket.query_start) if side is plan.queries else (bucket.keys, bucket.key_start)
            )
            rows = side.rows(bucket, most_rows)
            buffer[start : start + len(rows)] = own[rows]
        back = buffer[side.back_RH.flatten()]
        inside = torch.tensor([s in active for s in segment_R.tolist()], dtype=torch.bool).repeat_interleave(num_heads)
        assert back[inside].equal(own[inside])
        assert back[~inside].eq(-1).all()


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "FREE_WASTE", 10)
    monkeypatch.setattr(buckets, "MOST_SCORES", 100)
    lengths = torch.randint(0, 40, (200,))
    plan = make_plan(torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]), None)
    for bucket in plan.buckets:
        mine = plan.keys.length_A[bucket.first : bucket.last]
        assert bucket.keys == mine.max()
        assert bucket.even_keys == (mine.min() == mine.max())
        assert plan.keys.padding(bucket, bucket.keys).sum() == bucket.keys * len(mine) - mine.sum()
        assert bucket.keys * len(mine) - mine.sum() <= 10 + buckets.WASTE * mine.sum()
        assert bucket.keys * len(mine) <= 100
    assert max(b.last - b.first for b in plan.buckets) > 2


def test_a_large_problem_is_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "MOST_SCORES", 100)
    (bucket,) = make_plan(torch.tensor([0, 30]), torch.zeros(8, dtype=torch.int64)).buckets
    assert pieces(bucket, 1) == [slice(0, 3), slice(3, 6), slice(6, 8)]
