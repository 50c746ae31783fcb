"""Time buckets at their edges, and the joint table."""

from __future__ import annotations

import math

import pytest
import torch

from ctr_rec.ops.prefix_attention import RelativeBias, hstu_time_edges, time_bucket


@pytest.mark.parametrize(("dtype", "bits"), [(torch.int32, 31), (torch.int64, 52)])
def test_log2_buckets_are_exact_beside_every_power(dtype: torch.dtype, bits: int) -> None:
    near = [2**bit + step for bit in range(bits) for step in (-2, -1, 0, 1)]
    seconds = [s for s in near if s >= 0]
    want = [(1 + s).bit_length() - 1 for s in seconds]
    assert time_bucket(torch.tensor(seconds, dtype=dtype), 64).tolist() == want


def test_buckets_are_clipped_at_both_ends() -> None:
    seconds = torch.tensor([-5, 0, 1, 2, 3, 7, 10**12, 2**62])
    assert time_bucket(seconds, 3).tolist() == [0, 0, 1, 1, 2, 2, 2, 2]
    assert time_bucket(seconds, 1).tolist() == [0] * 8
    assert time_bucket(torch.tensor([-(2**31), 2**31 - 1], dtype=torch.int32), 40).tolist() == [0, 31]
    assert time_bucket(torch.zeros(0, dtype=torch.int64), 5).shape == (0,)


def test_given_edges() -> None:
    assert time_bucket(torch.tensor([-1, 9, 10, 11, 99, 100]), 8, torch.tensor([10, 100])).tolist() == [
        0,
        0,
        1,
        1,
        1,
        2,
    ]


def test_hstu_edges_are_its_formula() -> None:
    edges = hstu_time_edges(200)
    seconds = torch.cat(
        [torch.arange(3_000), edges[(edges > 3_000) & (edges < 2**40)], torch.tensor([10**7 - 1, 10**9])]
    )
    want = [math.floor(math.log(max(1, s)) / 0.301) for s in seconds.tolist()]
    assert time_bucket(seconds, 200, edges).tolist() == want


def test_joint_table() -> None:
    position, time = torch.randn(4, 2), torch.randn(3, 2)
    joint = RelativeBias(position_PH=position, time_BH=time).joint_table()
    assert joint is not None
    assert joint.shape == (2, 12)
    torch.testing.assert_close(joint[1, 2 * 4 + 3], position[3, 1] + time[2, 1])
    only = RelativeBias(time_BH=time).joint_table()
    assert only is not None
    assert torch.equal(only, time.t())
    assert RelativeBias().joint_table() is None
