from __future__ import annotations

import io
import json
from pathlib import Path

import psutil
import pytest
import torch
from rich.console import Console

from ctr_rec.config import from_json
from ctr_rec.errors import ConfigError
from ctr_rec.schema.table import Table
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.sharding.plan import (
    GIB,
    Placement,
    ShardingConfig,
    allowed_sharding,
    check_memory,
    make_plan,
    memory_left,
    memory_per_rank,
    placement_of,
    table_bytes,
)
from ctr_rec.sharding.tables import OptimizerKind, TableOptimizer
from tests.ranks import run_ranks
from tests.sharding.small import SmallRanker, tables

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ROWWISE = TableOptimizer()
ADAGRAD = TableOptimizer(kind=OptimizerKind.ADAGRAD)


def table(sharding: str | None = None, bags: bool = False, rows: int = 1000) -> Table:
    return Table(name="city", rows=rows, dim=16, init_std=0.1, bags=bags, sharding=sharding)


def plan(group: Group, sharding: dict[str, str]) -> Placement:
    specs = tables(**sharding)
    model = SmallRanker(specs)
    return placement_of(make_plan(model, specs, ShardingConfig(), group), model, group)


def test_default_plan_covers_every_table_and_leaves_out_what_does_not_train_or_reshard() -> None:
    first, second = run_ranks(plan, 2, {})
    assert first == second
    assert [t.table for t in first.tables] == ["age", "genre", "item", "word"]
    for placed, spec in zip(first.tables, sorted(tables(), key=lambda t: t.name), strict=True):
        assert placed.sharding in ("row_wise", "table_wise")
        assert placed.kernel == "fused"
        assert sum(s.size[0] for s in placed.shards) == spec.rows
        assert {s.size[1] for s in placed.shards} <= {0, spec.dim}


def test_a_recipe_fixes_the_placement_of_a_table() -> None:
    wanted = {"item": "row_wise", "genre": "table_wise", "age": "data_parallel"}
    placement, _ = run_ranks(plan, 2, wanted)
    found = {t.table: t for t in placement.tables}
    assert {name: found[name].sharding for name in wanted} == wanted
    assert [s.rank for s in found["item"].shards] == [0, 1]
    assert [s.size for s in found["age"].shards] == [(9, 4), (9, 4)]


def test_column_wise_is_allowed_with_an_elementwise_optimizer() -> None:
    assert allowed_sharding(table("column_wise"), ADAGRAD, CPU) == ["column_wise"]


@pytest.mark.parametrize(
    ("asked", "bags", "message"),
    [
        ("row_wise", True, r"embedding.tables.city.sharding=row_wise: .*on the CPU; use table_wise"),
        ("data_parallel", False, r"embedding.tables.city.sharding=data_parallel: .*cannot be data-parallel"),
        ("column_wise", False, r"embedding.tables.city.sharding=column_wise: rowwise_adagrad keeps one state per row"),
    ],
)
def test_what_a_device_or_an_optimizer_cannot_do(asked: str, bags: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        allowed_sharding(table(asked, bags), ROWWISE, CPU)


def test_cuda_shards_bags_by_row_and_the_cpu_does_not() -> None:
    assert "row_wise" in allowed_sharding(table(bags=True), ROWWISE, CUDA)
    assert allowed_sharding(table(bags=True), ROWWISE, CPU) == ["table_wise"]
    assert allowed_sharding(table("row_wise", bags=True), ROWWISE, CUDA) == ["row_wise"]


def test_bytes_hold_weights_and_optimizer_state() -> None:
    assert table_bytes([table()], ROWWISE) == {"city": 4 * 1000 * 17}
    assert table_bytes([table()], ADAGRAD) == {"city": 4 * 1000 * 32}
    assert table_bytes([table()], TableOptimizer(kind=OptimizerKind.SGD)) == {"city": 4 * 1000 * 16}


def test_tables_that_do_not_fit_are_named() -> None:
    config = ShardingConfig(reserve=0.5)
    big = table(rows=20_000_000)
    check_memory([big], config, world_size=4, per_rank=GIB)
    with pytest.raises(ConfigError, match=r"they need 1.27 GiB .*city 1.27 GiB.* 2 rank\(s\) have 0.50 GiB each") as e:
        check_memory([big], config, world_size=2, per_rank=GIB)
    assert "use more ranks" in str(e.value)
    whole = big.model_copy(update={"sharding": "table_wise"})
    with pytest.raises(ConfigError, match="city may not be split"):
        check_memory([whole], config, world_size=4, per_rank=GIB)


def plan_without_room(group: Group) -> str:
    specs = [t.model_copy(update={"rows": 3_000_000}) if t.name == "word" else t for t in tables()]
    config = ShardingConfig(memory_per_rank_gib=0.04, reserve=0.0)
    with pytest.raises(ConfigError) as error:
        make_plan(SmallRanker(specs), specs, config, group)
    return str(error.value)


def test_the_planners_refusal_reaches_all_ranks_as_one_sentence() -> None:
    first, second = run_ranks(plan_without_room, 2)
    assert first == second
    assert "tables do not fit" in first
    assert "largest is word with 0.06 GiB" in first


def test_a_rank_takes_its_share_of_the_host() -> None:
    whole, half = memory_per_rank(CPU, 1), memory_per_rank(CPU, 2)
    assert half < 0.75 * whole


def test_what_a_rank_may_still_take_is_less_than_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = memory_left(1)
    assert 0 < whole <= memory_per_rank(CPU, 1)
    assert memory_left(2) < 0.75 * whole
    held = psutil.Process().memory_info().rss
    monkeypatch.setattr("ctr_rec.sharding.plan._memory_limit", lambda: 2 * held)
    assert memory_left(1) < 1.2 * held
    monkeypatch.setattr("ctr_rec.sharding.plan._memory_limit", lambda: held // 2)
    assert memory_left(1) == 0


def test_placement_is_saved_and_printed(tmp_path: Path) -> None:
    with open_group("cpu") as group:
        placement = plan(group, {})
    placement.save(tmp_path / "plan.json")
    text = (tmp_path / "plan.json").read_text()
    assert from_json(Placement, text, "plan.json") == placement
    assert json.loads(text)["world_size"] == 1
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(placement.rich())
    printed = console.export_text()
    assert "item" in printed
    assert "101" in printed
