from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from ctr_rec.schema.table import Table
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.sharding.parallelize import Parallel, parallelize
from ctr_rec.sharding.plan import ShardingConfig
from ctr_rec.sharding.tables import OptimizerKind, TableOptimizer, local_shards
from tests.ranks import run_ranks
from tests.sharding.small import SmallRanker, global_batch, share, tables

SPREAD = {"item": "row_wise", "genre": "table_wise", "age": "table_wise", "word": "data_parallel"}
OTHERWISE = {"item": "table_wise", "genre": "row_wise", "age": "data_parallel", "word": "table_wise"}


def build(group: Group, kind: str, sharding: dict[str, str], lr: float = 0.1) -> Parallel:
    specs = tables(**sharding)
    config = ShardingConfig(optimizer=TableOptimizer(kind=OptimizerKind(kind), lr=lr))
    return parallelize(SmallRanker(specs), specs, config, group, seed=3)


def step(parallel: Parallel, dense: torch.optim.Optimizer, number: int) -> float:
    """One step as the trainer takes it; returns the loss of the global batch."""
    group = parallel.group
    batch = share(global_batch(number), number, group.index, group.size)
    dense.zero_grad()
    per_impression = binary_cross_entropy_with_logits(parallel.model(batch), batch.label, reduction="none")
    local = (per_impression * batch.weight).sum()
    (local * group.size / batch.of_global).backward()
    dense.step()
    parallel.fused_optimizer.step()
    return group.all_reduce_sum(local).item() / batch.of_global


def whole_tables(parallel: Parallel, of: list[Table] | None = None) -> dict[str, np.ndarray]:
    """Every table as one array, put together from the shards of all ranks."""
    mine = [(s.table, s.offset, s.weight.numpy().copy()) for s in local_shards(parallel.model)]
    out = {t.name: np.full((t.rows, t.dim), np.nan, np.float32) for t in of or tables()}
    for shards in parallel.group.all_gather_object(mine):
        for name, (row, column), weight in shards:
            out[name][row : row + weight.shape[0], column : column + weight.shape[1]] = weight
    return out


def train(group: Group, kind: str, sharding: dict[str, str], steps: int) -> dict[str, object]:
    parallel = build(group, kind, sharding)
    dense = torch.optim.SGD(parallel.dense_parameters.values(), lr=0.1)
    before = whole_tables(parallel)
    losses = [step(parallel, dense, k) for k in range(steps)]
    head = {name: p.detach().numpy().copy() for name, p in parallel.dense_parameters.items()}
    return {
        "before": before,
        "after": whole_tables(parallel),
        "losses": losses,
        "head": head,
        "plan": {t.table: t.sharding for t in parallel.plan.tables},
    }


def alone(kind: str, sharding: dict[str, str], steps: int) -> dict[str, object]:
    with open_group("cpu") as group:
        return train(group, kind, sharding, steps)


@pytest.mark.parametrize("sharding", [SPREAD, OTHERWISE], ids=["spread", "otherwise"])
def test_two_ranks_equal_one_with_sgd_tables(sharding: dict[str, str]) -> None:
    one = alone("sgd", {}, 20)
    first, second = run_ranks(train, 2, "sgd", sharding, 20)
    assert first["plan"] == sharding
    for name, values in one["after"].items():
        assert not np.array_equal(values, one["before"][name]), f"{name} never moved"
        assert np.array_equal(first["before"][name], one["before"][name])
        assert np.array_equal(first["after"][name], second["after"][name])
        np.testing.assert_allclose(first["after"][name], values, rtol=0, atol=1e-6)
    for name, values in one["head"].items():
        assert np.array_equal(first["head"][name], second["head"][name])
        np.testing.assert_allclose(first["head"][name], values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["rowwise_adagrad", "adagrad"])
def test_losses_of_two_ranks_equal_those_of_one_with_adagrad_tables(kind: str) -> None:
    one = alone(kind, {}, 200)
    first, _ = run_ranks(train, 2, kind, SPREAD, 200)
    np.testing.assert_allclose(first["losses"], one["losses"], rtol=0, atol=1e-5)
    assert np.mean(one["losses"][-20:]) < np.mean(one["losses"][:20]) - 0.02


def test_three_ranks_with_fewer_rows_than_a_share() -> None:
    one = alone("sgd", {}, 6)
    results = run_ranks(train, 3, "sgd", {"item": "row_wise", "genre": "row_wise"}, 6)
    for name, values in one["after"].items():
        np.testing.assert_allclose(results[2]["after"][name], values, rtol=0, atol=1e-6)


def lr_schedule(group: Group, sharding: dict[str, str]) -> list[float]:
    parallel = build(group, "sgd", sharding)
    dense = torch.optim.SGD(parallel.dense_parameters.values(), lr=0.1)
    moved = []
    for factor in (1.0, 0.5, 0.0, 1.0):
        before = whole_tables(parallel)
        parallel.set_table_lr(factor)
        step(parallel, torch.optim.SGD(parallel.dense_parameters.values(), lr=0.0), 1)
        after = whole_tables(parallel)
        moved.append([float(np.abs(after[t] - before[t]).max()) for t in ("item", "genre", "age", "word")])
    del dense
    return moved


def test_learning_rate_of_tables_follows_its_factor_at_once() -> None:
    for moved in run_ranks(lr_schedule, 2, SPREAD):
        full, half, none, again = np.array(moved)
        assert (full > 0).all()
        np.testing.assert_allclose(half / full, 0.5, atol=0.05)
        assert (none == 0).all()
        np.testing.assert_allclose(again / full, 1.0, atol=0.1)


def test_a_table_has_its_own_learning_rate() -> None:
    specs = [t.model_copy(update={"learning_rate": 1e-3}) if t.name == "genre" else t for t in tables()]
    with open_group("cpu") as group:
        config = ShardingConfig(optimizer=TableOptimizer(kind=OptimizerKind.SGD, lr=0.25))
        parallel = parallelize(SmallRanker(specs), specs, config, group)
        rates = {name: g["lr"] for name, g in zip(parallel.fused_optimizer.params, _groups(parallel), strict=True)}
    assert rates["collection.embeddings.genre.weight"] == pytest.approx(1e-3)
    assert rates["collection.embeddings.item.weight"] == pytest.approx(0.25)


def _groups(parallel: Parallel) -> list[dict[str, float]]:
    groups = []
    for group in parallel.fused_optimizer.param_groups:
        groups += [group] * len(group["params"])
    return groups


def freeze_and_thaw(group: Group) -> dict[str, bool]:
    parallel = build(group, "sgd", {})
    names = list(parallel.dense_parameters)
    frozen = parallel.dense_parameters[names[0]]
    frozen.requires_grad_(False)
    parallel.rebuild_dense()
    before = {n: p.detach().clone() for n, p in parallel.dense_parameters.items()}
    step(parallel, torch.optim.SGD([p for p in parallel.dense_parameters.values() if p.requires_grad], lr=0.1), 1)
    moved = {n: not torch.equal(p, before[n]) for n, p in parallel.dense_parameters.items()}
    frozen.requires_grad_(True)
    parallel.rebuild_dense()
    step(parallel, torch.optim.SGD(parallel.dense_parameters.values(), lr=0.1), 2)
    moved["thawed"] = not torch.equal(frozen, before[names[0]])
    checks = group.all_gather_object({n: p.sum().item() for n, p in parallel.dense_parameters.items()})
    moved["agree"] = all(c == checks[0] for c in checks)
    return moved


def forget_and_go_on(group: Group) -> dict[str, bool]:
    parallel = build(group, "sgd", {})
    step(parallel, torch.optim.SGD(parallel.dense_parameters.values(), lr=0.1), 1)
    module = parallel.module
    assert isinstance(module, SmallRanker)
    module.head = torch.nn.Sequential(module.head[0], torch.nn.ReLU(), torch.nn.AvgPool1d(16))
    parallel.forget("head.2")
    before = {n: p.detach().clone() for n, p in parallel.dense_parameters.items()}
    step(parallel, torch.optim.SGD(parallel.dense_parameters.values(), lr=0.1), 2)
    found = {n: not torch.equal(p, before[n]) for n, p in parallel.dense_parameters.items()}
    checks = group.all_gather_object({n: p.sum().item() for n, p in parallel.dense_parameters.items()})
    return {**found, "agree": all(c == checks[0] for c in checks)}


def test_a_part_that_is_forgotten_leaves_the_rest_in_step() -> None:
    for found in run_ranks(forget_and_go_on, 2):
        assert found == {"head.0.weight": True, "head.0.bias": True, "agree": True}


def start_differently(group: Group) -> dict[str, np.ndarray]:
    specs = tables()
    model = SmallRanker(specs)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.add_(group.index)
    parallel = parallelize(model, specs, ShardingConfig(), group)
    return {name: p.detach().numpy().copy() for name, p in parallel.dense_parameters.items()}


def test_every_rank_starts_with_the_dense_values_of_rank_zero() -> None:
    first, second = run_ranks(start_differently, 2)
    reference = dict(SmallRanker(tables()).named_parameters())
    assert first.keys() == {"head.0.weight", "head.0.bias", "head.2.weight", "head.2.bias"}
    for name, value in first.items():
        assert np.array_equal(value, reference[name].detach().numpy())
        assert np.array_equal(value, second[name])


def test_dense_part_is_wrapped_anew_when_what_is_trained_changes() -> None:
    for moved in run_ranks(freeze_and_thaw, 2):
        assert not moved.pop("head.0.weight")
        assert all(moved.values()), moved
