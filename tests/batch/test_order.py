"""Epoch plans: counts alone decide, and they are the same in every epoch."""

from __future__ import annotations

import numpy as np
import pytest

from ctr_rec.batch.config import Alone, Batches, Packed, Pointwise
from ctr_rec.batch.order import EpochOrder, generator
from ctr_rec.schema.manifest import RowGroup


def groups(impressions: list[int]) -> tuple[RowGroup, ...]:
    return tuple(
        RowGroup(file="events/part-00000.parquet", index=i, users=1, events=n + 3, first_event=0, impressions=(n, 1, 0))
        for i, n in enumerate(impressions)
    )


def order(impressions: list[int], batches: Batches, buffer: int = 2, shuffle: bool = True, seed: int = 0) -> EpochOrder:
    return EpochOrder(groups(impressions), 0, batches, buffer, seed, shuffle)


LOGS = [[5], [1, 1, 1], [100, 3, 0, 50, 1, 1, 800], [0, 7], [1000, 1, 1000, 1]]


@pytest.mark.parametrize("impressions", LOGS)
@pytest.mark.parametrize(
    "batches",
    [
        Pointwise(impressions=10),
        Pointwise(impressions=1),
        Packed(tokens=30, context=9),
        Alone(impressions=10),
        Alone(impressions=10, history=9, tokens=30),
        Alone(impressions=1000, history=9, tokens=19),
        Alone(impressions=3, history=9, tokens=3000),
    ],
)
def test_every_epoch_has_the_same_number_of_batches(impressions: list[int], batches: Batches) -> None:
    made = order(impressions, batches)
    for epoch in range(6):
        plan = made.plan(epoch)
        assert sorted(g.index for p in plan for g in p.row_groups) == [i for i, n in enumerate(impressions) if n]
        assert sum(p.num_batches for p in plan) == made.num_batches()
        assert [p.first_batch for p in plan] == np.cumsum([0] + [p.num_batches for p in plan])[:-1].tolist()
        for p in plan:
            found = sum(g.impressions[0] for g in p.row_groups)
            assert 1 <= p.num_batches <= found
            if isinstance(batches, Alone) and batches.most is not None:
                assert -(-found // p.num_batches) <= batches.most


def test_pointwise_batches_have_nearly_the_size_asked_for() -> None:
    made = order([795_841], Pointwise(impressions=4096))
    assert made.num_batches() == 194
    for p in order([5000] * 9, Pointwise(impressions=100), buffer=4).plan(0):
        assert 95 <= 5000 * len(p.row_groups) / p.num_batches <= 105


def test_every_buffer_has_batches_enough_for_the_bound() -> None:
    """Shared by their impressions alone, the first buffer would have one batch of six."""
    plan = order([6, 13], Alone(impressions=1000, history=5, tokens=30), buffer=1, shuffle=False).plan(0)
    assert [p.num_batches for p in plan] == [2, 3]


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def sequence(seed: int, epoch: int, shuffle: bool = True) -> list[int]:
        plan = order([9] * 40, Pointwise(), shuffle=shuffle, seed=seed).plan(epoch)
        return [g.index for p in plan for g in p.row_groups]

    assert sequence(0, 0) == sequence(0, 0)
    assert sequence(0, 0) != sequence(0, 1)
    assert sequence(0, 0) != sequence(1, 0)
    assert sequence(0, 3, shuffle=False) == list(range(40))


def test_generators_of_different_purpose_differ() -> None:
    draws = {
        tuple(generator(*key).integers(0, 1000, 4))
        for key in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 1, 2))
    }
    assert len(draws) == 5
