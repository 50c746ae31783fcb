"""Tables that begin again, on one rank and on two, under every placement the CPU has."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ctr_rec.sharding.group import Group
from ctr_rec.sharding.parallelize import Parallel, parallelize
from ctr_rec.sharding.plan import ShardingConfig
from ctr_rec.sharding.restart import _pieces, restart_tables
from ctr_rec.sharding.tables import OptimizerKind, TableOptimizer, local_shards, table_of
from tests.ranks import run_ranks
from tests.sharding.small import SmallRanker, global_batch, share, tables

PLACEMENTS = ({"item": "row_wise", "age": "table_wise"}, {"item": "table_wise", "age": "data_parallel"})


def _weights(parallel: Parallel) -> dict[tuple[str, int], Tensor]:
    return {(s.table, s.offset[0]): s.weight.clone() for s in local_shards(parallel.model)}


def _states(parallel: Parallel) -> Iterator[tuple[str, Tensor]]:
    for path, entry in parallel.fused_optimizer.state_dict()["state"].items():
        yield from ((table_of(path), piece.clone()) for piece in _pieces(entry))


def _restart(group: Group, placement: dict[str, str], kind: OptimizerKind) -> None:
    found = tables(**placement)
    config = ShardingConfig(optimizer=TableOptimizer(kind=kind, lr=0.1))
    parallel = parallelize(SmallRanker(found), found, config, group, seed=3)
    began = _weights(parallel)
    for step in range(6):
        batch = share(global_batch(step), step, group.index, group.size)
        parallel.fused_optimizer.zero_grad()
        parallel.model(batch).sum().backward()
        parallel.fused_optimizer.step()
    trained, accumulated = _weights(parallel), list(_states(parallel))
    again = [t for t in found if t.name in ("item", "age")]
    restart_tables(parallel, again, 3)
    for (table, row), weight in _weights(parallel).items():
        before = began if table in ("item", "age") else trained
        assert torch.equal(weight, before[table, row]), table
    moved = {table for (table, row), weight in trained.items() if not torch.equal(weight, began[table, row])}
    assert group.any("item" in moved)
    assert group.any("age" in moved), "training moved nothing, so this test would prove nothing"
    for (table, state), (_, before) in zip(_states(parallel), accumulated, strict=True):
        assert not state.any() if table in ("item", "age") else torch.equal(state, before), table
    if kind is not OptimizerKind.SGD:
        assert group.any(any(before.any() for table, before in accumulated if table == "item"))
    restart_tables(parallel, again, "3/1")
    fresh = _weights(parallel)
    assert not any(torch.equal(fresh[key], began[key]) for key in fresh if key[0] in ("item", "age"))


@pytest.mark.parametrize("kind", [OptimizerKind.ROWWISE_ADAGRAD, OptimizerKind.ADAGRAD, OptimizerKind.SGD])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_values_and_state_of_the_named_tables_alone_begin_again(placement: dict[str, str], kind: OptimizerKind) -> None:
    run_ranks(_restart, 2, placement, kind)
