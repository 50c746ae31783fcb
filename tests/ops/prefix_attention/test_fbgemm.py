"""The padded backend's groups: no range crosses one, users share none, and every key is in exactly one."""

from __future__ import annotations

import pytest
import torch

from ctr_rec.ops.prefix_attention.fbgemm import _groups, _make_padding
from ctr_rec.ops.prefix_attention.pairs import Pairs
from tests.ops.prefix_attention.cases import AWKWARD, attend, make_case


@pytest.mark.parametrize("lengths", [AWKWARD, (), (0, 0), (1,) * 9, (0, 61, 1, 45)])
@pytest.mark.parametrize("window", [1, 20, 1000])
def test_no_range_leaves_its_group_and_no_group_holds_two_users(lengths: tuple[int, ...], window: int) -> None:
    case = make_case(lengths, window)
    starts, group = _groups(case.lo, case.hi, case.num_keys)
    assert (starts[0], starts[-1]) == (0, case.num_keys)
    assert (starts.diff() > 0).all() or case.num_keys == 0
    assert ((group >= 0) & (group < len(starts) - 1)).all()
    sees = case.lo < case.hi
    assert (case.lo[sees] >= starts[group[sees]]).all()
    assert (case.hi[sees] <= starts[group[sees] + 1]).all()
    group_of_key = torch.searchsorted(starts, torch.arange(case.num_keys), right=True) - 1
    for one in group_of_key.unique():
        assert len(case.user_of_key[group_of_key == one].unique()) == 1


def test_groups_by_hand() -> None:
    lo, hi = torch.tensor([0, 1, 4, 2, 6, 3]), torch.tensor([2, 3, 6, 2, 6, 4])
    starts, group = _groups(lo, hi, 7)
    assert starts.tolist() == [0, 3, 4, 6, 7]
    assert group.tolist() == [0, 0, 2, 0, 3, 1]


def test_padding_is_as_long_as_the_longest_group() -> None:
    case = make_case((5, 2), window=9, own="none")
    padding = _make_padding(Pairs(lo_Q=case.lo, hi_Q=case.hi, num_keys=7))
    longest = int(padding.key_offsets.diff().max())
    assert padding.visible_GRS.shape[2] == longest <= 5
    assert int(padding.visible_GRS.sum()) == int((case.hi - case.lo).sum())
    rows = torch.arange(len(case.lo), dtype=torch.float32).unsqueeze(1)
    assert torch.equal(padding.to_queries(padding.pad_queries(rows)), rows)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["softmax", "silu"])
def test_cuda_equals_the_reference_on_cpu(kind: str) -> None:
    case = make_case(dtype=torch.float32)
    want = attend(case, case.query_bias(), kind=kind, backend="reference")
    moved = case.on("cuda")
    got = attend(moved, moved.query_bias(), kind=kind, backend="fbgemm")
    torch.testing.assert_close(got.cpu(), want, rtol=0, atol=2e-5)
