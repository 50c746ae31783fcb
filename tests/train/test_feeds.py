"""Batches of several readers spread over the steps of one; what each pass reads is tested with the strategies."""

import pytest

from ctr_rec.train.feeds import _due


@pytest.mark.parametrize(("batches", "steps"), [(7, 7), (3, 7), (20, 7), (1, 5), (0, 3)])
def test_every_batch_is_due_once_and_evenly(batches: int, steps: int) -> None:
    due = [_due(step, batches, steps) for step in range(steps)]
    assert sum(due) == batches
    assert max(due) - min(due) <= 1
