from __future__ import annotations

import numpy as np
import pytest
import torch

from ctr_rec.checkpoint.warm_start.new_rows import ExactSums, fill_new, matched_sums
from ctr_rec.checkpoint.warm_start.row_map import Counts, RowMap
from ctr_rec.errors import CheckpointError
from ctr_rec.sharding.group import open_group
from ctr_rec.sharding.tables import LocalShard


def test_sums_do_not_depend_on_order_or_parts() -> None:
    values = torch.randn(5000, 3) * torch.logspace(-6, 2, 3)
    found = []
    with open_group("cpu") as group:
        for order in (torch.arange(5000), torch.randperm(5000)):
            sums = ExactSums(3)
            for part in values[order].split(700):
                sums.add(part, 0, "t")
            found.append(sums.over_ranks(group))
    assert np.array_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    np.testing.assert_allclose(found[0][0], values.double().mean(dim=0), rtol=1e-6, atol=1e-12)
    assert found[0][1] == pytest.approx(float(values.double().square().mean().sqrt()), rel=1e-6)


def test_numbers_that_no_table_holds_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"t: a matched row holds -3000000.0; expected numbers below 2097152"):
        ExactSums(1).add(torch.tensor([[-3e6]]), 0, "t")


def test_new_rows_take_the_mean_and_row_zero_does_not() -> None:
    weight = torch.arange(12.0).reshape(6, 2)
    shards = [LocalShard("t", (0, 0), weight[:, :1].clone()), LocalShard("t", (0, 1), weight[:, 1:].clone())]
    matched = np.array([False, True, False, True, False, False])
    pairs = RowMap(np.zeros(0, np.int64), np.zeros(0, np.int64), None, matched, 0, False, Counts())
    sums = ExactSums(2)
    matched_sums(shards, pairs, sums, 1, "t")
    with open_group("cpu") as group:
        mean, _ = sums.over_ranks(group)
    assert mean.tolist() == [4.0, 5.0]
    fill_new(shards, pairs, mean)
    new = torch.cat([s.weight for s in shards], dim=1)
    assert new.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [4, 5], [4, 5]]


def test_a_stride_looks_at_some_rows_only() -> None:
    shard = LocalShard("t", (10, 0), torch.arange(10.0, 20.0)[:, None])
    pairs = RowMap(np.zeros(0, np.int64), np.zeros(0, np.int64), None, np.ones(10, bool), 10, False, Counts())
    sums = ExactSums(1)
    matched_sums([shard], pairs, sums, 4, "t")
    with open_group("cpu") as group:
        assert sums.over_ranks(group)[0].tolist() == [14.0]
