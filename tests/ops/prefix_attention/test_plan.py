"""Blocks partition the queries, hold what each query sees, and know each pair's column."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ctr_rec.ops.prefix_attention import BlockLimits, plan_blocks
from tests.ops.prefix_attention.cases import AWKWARD, make_case

SMALL = BlockLimits(grain=4, overhead_pairs=10, max_pairs=100)


@pytest.mark.parametrize("lengths", [AWKWARD, (1,) * 50, (300,), ()])
def test_blocks_partition_the_queries_and_hold_what_they_see(lengths: tuple[int, ...]) -> None:
    case = make_case(lengths)
    for limits in (None, SMALL):
        plan = plan_blocks(case.lo, case.hi, case.num_keys, limits=limits)
        order = torch.arange(len(case.lo)) if plan.order_Q is None else plan.order_Q
        assert torch.equal(torch.cat([order[:0], *(order[b.start : b.stop] for b in plan.blocks)]), order)
        assert order.sort().values.tolist() == list(range(len(case.lo)))
        visible = 0
        for block, column in zip(plan.blocks, plan.columns, strict=True):
            queries = order[block.start : block.stop]
            seen = column.view(block.num_rows, block.num_keys) == 0
            keys = torch.arange(block.key_start, block.key_stop)
            assert torch.equal(seen, (keys >= case.lo[queries, None]) & (keys < case.hi[queries, None]))
            visible += int(seen.sum())
        assert visible == plan.num_visible_pairs == int((case.hi - case.lo).sum())
        assert plan.num_pairs >= visible


def test_columns_of_codes_name_position_and_bucket_apart() -> None:
    lo, hi = torch.tensor([0, 1]), torch.tensor([2, 4])
    sizes: dict[str, Any] = {"query_time_Q": torch.tensor([5, 7]), "key_time_T": torch.tensor([2, 4, 6, 6])}
    sizes |= {"joint": False, "by_runs": False}
    both = plan_blocks(lo, hi, 4, num_positions=4, num_buckets=3, **sizes).columns[0].view(2, 2, 4)
    hidden = 7
    assert both[0].tolist() == [[2, 1, hidden, hidden], [hidden, 3, 2, 1]]
    assert (both[1] - 4).tolist() == [[2, 1, 0, 0], [2, 2, 1, 1]]
    only_time = plan_blocks(lo, hi, 4, num_buckets=3, **sizes).columns[0].view(2, 4)
    assert only_time.tolist() == [[2, 1, 3, 3], [3, 2, 1, 1]]
    assert plan_blocks(lo, hi, 4, joint=False).joint, "without tables there is nothing to look up apart"


def test_columns_name_bucket_and_position() -> None:
    lo, hi = torch.tensor([0, 1]), torch.tensor([2, 4])
    times: dict[str, Any] = {"query_time_Q": torch.tensor([100, 107]), "key_time_T": torch.tensor([93, 99, 100, 106])}
    plan = plan_blocks(lo, hi, 4, num_positions=3, num_buckets=3, **times)
    hidden = 9
    # Seconds 7 1 and 8 7 1, buckets 2 (clipped) 1 and 2 2 1, positions 2 1 and 2 (clipped) 2 1.
    assert plan.columns[0].view(2, 4).tolist() == [[8, 4, hidden, hidden], [hidden, 8, 8, 4]]


def test_windows_of_two_lengths_meet_in_one_block() -> None:
    lo, hi = torch.tensor([5, 0, 3]), torch.tensor([6, 6, 6])
    (block,) = plan_blocks(lo, hi, 8).blocks
    assert (block.key_start, block.key_stop) == (0, 6)


def test_empty_ranges_do_not_widen_a_block() -> None:
    """Whether they stand in the middle of a piece or make up a piece of their own."""
    lo, hi = torch.tensor([0, 0, 0, 0, 0, 7, 900, 901]), torch.tensor([0, 0, 0, 0, 0, 7, 901, 902])
    for grain in (2, 8):
        limits = BlockLimits(grain=grain, overhead_pairs=100, max_pairs=1000)
        (block,) = plan_blocks(lo, hi, 1000, limits=limits).blocks
        assert (block.key_start, block.key_stop) == (900, 902)


def test_times_may_span_more_than_32_bits() -> None:
    lo, hi = torch.tensor([0]), torch.tensor([2])
    times: dict[str, Any] = {"query_time_Q": torch.tensor([2**40]), "key_time_T": torch.tensor([0, 2**40 - 1])}
    plan = plan_blocks(lo, hi, 2, num_buckets=64, **times)
    assert plan.columns[0].tolist() == [[40, 1]]


def test_any_order_of_queries_gives_the_same_blocks() -> None:
    case = make_case((300, 5, 80), window=30)
    plan = plan_blocks(case.lo, case.hi, case.num_keys)
    shuffle = torch.randperm(len(case.lo))
    shuffled = plan_blocks(case.lo[shuffle], case.hi[shuffle], case.num_keys)
    assert shuffled.num_pairs == plan.num_pairs
    rows = torch.randn(len(shuffle), 3)
    assert torch.equal(shuffled.to_query_order(shuffled.to_plan_order(rows)), rows)


def test_short_users_share_a_block_and_long_ones_do_not_waste() -> None:
    case = make_case((2,) * 40)
    assert len(plan_blocks(case.lo, case.hi, case.num_keys).blocks) < 4
    case = make_case((900, 900), window=128)
    plan = plan_blocks(case.lo, case.hi, case.num_keys)
    assert plan.num_visible_pairs > 0.6 * plan.num_pairs


@pytest.mark.parametrize(("lo", "hi"), [([0, 3], [2, 2]), ([0, -1], [2, 2]), ([0, 0], [2, 6])])
def test_a_range_that_is_none_is_refused(lo: list[int], hi: list[int]) -> None:
    with pytest.raises(ValueError, match=rf"0 <= lo <= hi <= 5 keys, got lo={lo[1]}, hi={hi[1]} at query 1"):
        plan_blocks(torch.tensor(lo), torch.tensor(hi), 5)


def test_ranges_of_two_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"vectors of one length, got shapes \(2,\) and \(3,\)"):
        plan_blocks(torch.zeros(2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), 5)


def test_a_time_bias_needs_times() -> None:
    lo, hi = torch.zeros(2, dtype=torch.int64), torch.ones(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="query_time_Q and key_time_T"):
        plan_blocks(lo, hi, 5, num_buckets=4)
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(5,\), got \(2,\) and \(4,\)"):
        plan_blocks(lo, hi, 5, num_buckets=4, query_time_Q=lo, key_time_T=torch.zeros(4, dtype=torch.int64))
