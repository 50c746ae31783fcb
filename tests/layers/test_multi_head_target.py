"""Multi-head target attention: shared rows, histories of length 0 and 1; its formula is tested with SIM."""

from __future__ import annotations

import pytest
import torch

from ctr_rec.layers.multi_head_target import MultiHeadTargetAttention


def test_a_single_behaviour_is_its_value_and_none_is_zeros() -> None:
    layer = MultiHeadTargetAttention(6, 2).double()
    x_TD, target_ND = torch.randn(3, 6).double(), torch.randn(4, 6).double()
    got = layer(target_ND, x_TD, torch.tensor([2, 0, 1, 0, 1]), torch.tensor([0, 1, 1, 3, 5]))
    torch.testing.assert_close(got[0], layer.out(layer.key_value(x_TD[2])[6:]))
    assert not got[1].any()
    alone = layer(target_ND[3:], x_TD[:2], torch.tensor([0, 1]), torch.tensor([0, 2]))
    torch.testing.assert_close(got[3:], alone)
    assert (got[2] - got[3]).abs().max() > 1e-6, "another target weighs the same two otherwise"


def test_flops_count_tokens_once_and_pairs_each() -> None:
    layer = MultiHeadTargetAttention(6, 2)
    assert layer.flops(4, 3, 5) == 2 * (4 * 36 + 3 * 72 + 5 * 6 + 5 * 6 + 4 * 36)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match=r"heads is 4 and tokens\.width 6"):
        MultiHeadTargetAttention(6, 4)
