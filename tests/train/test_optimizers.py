import math
from itertools import pairwise

import pytest
import torch

from ctr_rec.train.optimizers import DenseOptimizer, Schedule


def test_warm_up_rises_to_one_and_then_decays_to_the_end_value() -> None:
    schedule = Schedule(warmup_steps=4, decay="linear", end=0.1)
    factors = [schedule.factor(step, 14) for step in range(15)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0
    assert factors[14] == pytest.approx(0.1)
    assert all(a > b for a, b in pairwise(factors[4:]))


def test_cosine_is_half_way_down_in_the_middle() -> None:
    assert Schedule(decay="cosine").factor(50, 100) == pytest.approx(0.5)
    assert Schedule(decay="cosine").factor(25, 100) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def test_constant_stays() -> None:
    assert Schedule().factor(10_000, 1) == 1.0


def test_state_exists_before_the_first_step_and_the_step_is_adamw() -> None:
    ours, theirs = torch.nn.Parameter(torch.tensor([1.0, -2.0])), torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = DenseOptimizer(lr=0.1, weight_decay=0.01).build([ours])
    assert set(optimizer.state[ours]) == {"step", "exp_avg", "exp_avg_sq"}
    plain = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.01)
    for _ in range(3):
        ours.grad, theirs.grad = torch.tensor([0.5, 0.25]), torch.tensor([0.5, 0.25])
        optimizer.step()
        plain.step()
    assert torch.equal(ours, theirs)
