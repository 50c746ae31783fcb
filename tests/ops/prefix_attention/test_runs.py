"""Runs and shifts of a block say, pair by pair, what position and time are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ctr_rec.ops.prefix_attention import BlockLimits, plan_blocks
from ctr_rec.ops.prefix_attention.bias import time_bucket
from tests.ops.prefix_attention.cases import AWKWARD, BUCKETS, POSITIONS, attend, make_case, output_and_gradients

SMALL = BlockLimits(grain=4, overhead_pairs=10, max_pairs=100)


@pytest.mark.parametrize("lengths", [AWKWARD, (1,) * 50, (300,), ()])
@pytest.mark.parametrize("limits", [None, SMALL])
def test_every_pair_finds_its_bucket_and_its_position(lengths: tuple[int, ...], limits: BlockLimits | None) -> None:
    case = make_case(lengths)
    plan = plan_blocks(
        case.lo,
        case.hi,
        case.num_keys,
        num_positions=POSITIONS,
        num_buckets=BUCKETS,
        query_time_Q=case.query_time,
        key_time_T=case.key_time,
        joint=False,
        by_runs=True,
        limits=limits,
    )
    lo, hi, time = (plan.to_plan_order(x) for x in (case.lo, case.hi, case.query_time))
    for block, rows in zip(plan.blocks, plan.rows, strict=True):
        queries, keys = slice(block.start, block.stop), torch.arange(block.key_start, block.key_stop)
        visible = (keys >= lo[queries, None]) & (keys < hi[queries, None])
        code = torch.from_numpy(np.repeat(rows.code_r.numpy(), rows.length_r)).view(visible.shape)
        row, bucket = code // (BUCKETS + 1) - block.start, code % (BUCKETS + 1)
        assert torch.equal(row, torch.arange(block.num_rows)[:, None].expand_as(row))
        assert torch.equal(bucket == BUCKETS, ~visible)
        want = time_bucket(time[queries, None] - case.key_time[keys], BUCKETS)
        assert torch.equal(bucket[visible], want[visible])
        place = rows.shift_q[:, None] + torch.arange(block.num_keys)
        assert torch.equal((rows.width - place)[visible], (hi[queries, None] - keys)[visible])
        assert rows.first_shift == int(rows.shift_q[0]) == int(rows.shift_q.max())


def test_a_users_gradient_does_not_reach_the_positions_of_another_head() -> None:
    """The first row of a head reads behind the last row of the head before; one user, a window that fills the span."""
    case = make_case((12,), window=12)
    want = output_and_gradients(case, case.query_bias(), kind="softmax", backend="reference")
    got = output_and_gradients(case, case.query_bias(), kind="softmax", by_runs=True)
    torch.testing.assert_close(got["position_codes"], want["position_codes"])


def test_what_stands_beyond_a_querys_scores_reaches_nobody() -> None:
    """One user's huge queries leave the others' outputs and gradients as they are, to the bit."""
    case = make_case((9, 14), window=5, own="none")
    tensors = {name: tensor.detach().clone() for name, tensor in case.tensors.items()}
    tensors["q"][case.user_of_query == 0] *= 1e30
    wild = case.changed(**{name: tensor.requires_grad_() for name, tensor in tensors.items()})
    other = case.user_of_query == 1
    outs = [attend(c, c.query_bias(), kind="softmax", by_runs=True) for c in (case, wild)]
    assert torch.equal(*(out[other] for out in outs))
