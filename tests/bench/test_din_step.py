"""Both sides of the model step compute one function and train."""

from __future__ import annotations

import torch

from ctr_rec.bench.din_step import both_sides, difference
from ctr_rec.sharding.group import open_group
from tests.bench.conftest import Prepared


def test_both_models_agree_in_logits_gradients_and_table_updates(prepared: Prepared) -> None:
    run, spec, batches = prepared
    with open_group("cpu") as group:
        sides = both_sides(run, spec, group, batches)
        assert difference(sides) < 1e-4
        attention = next(p for n, p in sides["padded"].parallel.dense_parameters.items() if "attention" in n)
        with torch.no_grad():
            attention.add_(0.5)
        assert difference(sides) > 1e-4


def test_steps_train_both_models(prepared: Prepared) -> None:
    run, spec, batches = prepared
    with open_group("cpu") as group:
        for side in both_sides(run, spec, group, batches).values():
            before = [p.detach().clone() for p in side.parallel.model.parameters()]
            side.steps()
            assert all(not torch.equal(a, b) for a, b in zip(before, side.parallel.model.parameters(), strict=True))
