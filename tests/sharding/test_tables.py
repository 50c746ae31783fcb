from __future__ import annotations

from itertools import chain
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torchrec.optim.keyed import KeyedOptimizer

from ctr_rec.errors import ConfigError
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.sharding.initial import normal_rows
from ctr_rec.sharding.parallelize import parallelize
from ctr_rec.sharding.plan import ShardingConfig
from ctr_rec.sharding.tables import (
    OptimizerKind,
    TableOptimizer,
    assert_every_table_has_one_optimizer,
    check_optimizer,
    is_table,
    local_shards,
    table_of,
    write_initial_values,
)
from tests.ranks import run_ranks
from tests.sharding.small import SmallRanker, tables

CPU = torch.device("cpu")


def shards(group: Group, sharding: dict[str, str], kind: str) -> list[tuple[str, tuple[int, int], np.ndarray]]:
    specs = tables(**sharding)
    config = ShardingConfig(optimizer=TableOptimizer(kind=OptimizerKind(kind)))
    parallel = parallelize(SmallRanker(specs), specs, config, group, seed=11)
    return [(s.table, s.offset, s.weight.numpy().copy()) for s in local_shards(parallel.model)]


@pytest.mark.parametrize("item", ["row_wise", "table_wise", "column_wise"])
def test_initial_values_depend_on_seed_table_and_row_alone(item: str) -> None:
    sharding = {"item": item, "genre": "row_wise", "word": "data_parallel"}
    seen = {t.name: 0 for t in tables()}
    for rank in run_ranks(shards, 2, sharding, "adagrad"):
        for name, (row, column), weight in rank:
            spec = next(t for t in tables() if t.name == name)
            whole = normal_rows(11, name, np.arange(spec.rows), spec.dim, spec.init_std)
            rows, columns = weight.shape
            assert np.array_equal(weight, whole[row : row + rows, column : column + columns])
            seen[name] += weight.size
    assert seen == {t.name: t.rows * t.dim * (2 if t.name == "word" else 1) for t in tables()}


def _numbers(table: str, first: int, stop: int) -> np.ndarray:
    return np.arange(first, stop, dtype=np.uint64) * np.uint64(3) + np.uint64(len(table))


def _start_and_start_again(group: Group) -> list[tuple[str, int, np.ndarray, np.ndarray]]:
    specs = tables(item="row_wise")
    parallel = parallelize(SmallRanker(specs), specs, ShardingConfig(), group, 11, _numbers)
    before = [s.weight.clone() for s in local_shards(parallel.model)]
    for shard in local_shards(parallel.model):
        shard.weight.zero_()
    write_initial_values(parallel.model, specs, 11, _numbers)
    shards = zip(local_shards(parallel.model), before, strict=True)
    return [(s.table, s.offset[0], s.weight.numpy().copy(), b.numpy()) for s, b in shards]


def test_initial_values_follow_the_numbers_of_rows_and_can_be_written_again() -> None:
    for name, row, weight, before in chain(*run_ranks(_start_and_start_again, 2)):
        spec = next(t for t in tables() if t.name == name)
        numbers = _numbers(name, row, row + len(weight))
        assert np.array_equal(weight, normal_rows(11, name, numbers, spec.dim, spec.init_std))
        assert np.array_equal(weight, before)


def test_adam_on_the_cpu_names_the_tables() -> None:
    adam = TableOptimizer(kind=OptimizerKind.ADAM)
    with pytest.raises(ConfigError, match=r"kind=adam for the tables item, genre, age, word: .*CUDA only.*use rowwise"):
        check_optimizer(adam, tables(), CPU)
    check_optimizer(adam, tables(), torch.device("cuda"))


def test_weight_decay_that_would_be_ignored() -> None:
    config = TableOptimizer(kind=OptimizerKind.SGD, weight_decay=0.1)
    with pytest.raises(ConfigError, match=r"weight_decay=0.1 for the tables item.*sgd ignores it"):
        check_optimizer(config, tables(), CPU)
    check_optimizer(TableOptimizer(weight_decay=0.1), tables(), CPU)


def test_replicated_tables_refuse_what_would_move_every_row() -> None:
    with pytest.raises(ConfigError, match=r"embedding.tables.age.sharding=data_parallel .*weight_decay=0.1"):
        check_optimizer(TableOptimizer(weight_decay=0.1), tables(age="data_parallel"), CPU)


def test_names_of_parameters() -> None:
    assert is_table("front.collection.embeddings.item.weight")
    assert is_table("front.bags.embedding_bags.age.weight")
    assert not is_table("tower.embeddings.weight")
    assert not is_table("head.0.weight")
    assert table_of("front.bags.embedding_bags.age.weight") == "age"


def _optimizer(*names: str) -> KeyedOptimizer:
    return cast(KeyedOptimizer, SimpleNamespace(params=cast(Any, dict.fromkeys(names))))


def test_a_table_without_optimizer_or_with_two_stops_the_start() -> None:
    paths = [f"front.collection.embeddings.{t.name}.weight" for t in tables()]
    with open_group("cpu") as group:
        assert_every_table_has_one_optimizer(tables(), _optimizer(*paths), group)
        with pytest.raises(AssertionError, match=r"expected one each: \{'word': 0\}"):
            assert_every_table_has_one_optimizer(tables(), _optimizer(*paths[:3]), group)
        with pytest.raises(AssertionError, match=r"\{'age': 2\}"):
            assert_every_table_has_one_optimizer(tables(), _optimizer(*paths, "other.embeddings.age.weight"), group)
