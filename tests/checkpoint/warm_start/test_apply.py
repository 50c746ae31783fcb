"""Every matched id has the source's vector to the bit, on 1, 2 and 4 ranks, from every kind of source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection

from ctr_rec.checkpoint.warm_start.apply import warm_start
from ctr_rec.checkpoint.warm_start.config import TableWarmStart, VocabularyIds, WarmStart
from ctr_rec.checkpoint.warm_start.moments import state_shards
from ctr_rec.checkpoint.warm_start.target import TargetTable
from ctr_rec.checkpoint.warm_start.widths import projection
from ctr_rec.errors import CheckpointError, ConfigError
from ctr_rec.schema.table import Table
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.sharding.parallelize import parallelize
from ctr_rec.sharding.plan import ShardingConfig
from ctr_rec.sharding.tables import OptimizerKind, TableOptimizer, local_shards
from tests.checkpoint.warm_start.cases import (
    alone,
    assert_same,
    ids_of,
    log_manifest,
    on_ranks,
    parameter,
    random_vectors,
    start,
    targets,
    write_dcp,
    write_our_vocabularies,
    write_parquet,
    write_safetensors,
    write_vocabulary,
)
from tests.ranks import run_ranks
from tests.sharding.test_parallelize import SPREAD, build, step

ROWS = {"item": 150, "genre": 5, "age": 9, "word": 20}
DIMS = {"item": 8, "genre": 8, "age": 4, "word": 4}
PLACES = {
    2: SPREAD,
    4: {"item": "row_wise", "genre": "row_wise", "age": "data_parallel", "word": "table_wise"},
}


def their_ids(table: str) -> list[str]:
    """Two thirds of ours or more, in another order, and others."""
    return ids_of(table, ROWS[table], seed=2)


def write_source(root: Path, kind: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Tables of other sizes in another order; returns vectors and row-wise state by table."""
    made = {t: (random_vectors(ROWS[t], DIMS[t]), random_vectors(ROWS[t], 1, 9)[:, 0].abs()) for t in ROWS}
    for table in ROWS:
        write_vocabulary(root / "theirs" / f"{table}.parquet", their_ids(table), range(ROWS[table]), range(ROWS[table]))
    names = {t: parameter(t) for t in ROWS}
    if kind == "dcp":
        state = {f"optim.state.{parameter(t, 'sparse.ebc')}.{t}.momentum1": m for t, (_, m) in made.items()}
        write_dcp(root / "source", {**{names[t]: v for t, (v, _) in made.items()}, **state, "epoch": 3})
    elif kind == "safetensors":
        tensors = {names[t]: v for t, (v, _) in made.items()}
        tensors |= {f"table_optimizer.{names[t]}.{t}.sum": m for t, (_, m) in made.items()}
        write_safetensors(root / "source" / "model.safetensors", tensors)
    else:
        for table, (vectors, state) in made.items():
            path, parts = root / "source" / f"{table}.parquet", 3 if table == "item" else 1
            write_parquet(path, their_ids(table), vectors, parts, momentum1=state.numpy())
    return made


def config_of(root: Path, kind: str, **settings: Any) -> WarmStart:
    made: dict[str, TableWarmStart] = {}
    for table in ROWS:
        own = {} if kind == "parquet" else {"ids": VocabularyIds(path=str(root / "theirs" / f"{table}.parquet"))}
        made[table] = TableWarmStart(**{**own, **settings})
    return WarmStart(source=str(root / "source"), tables=made, trained_until=600)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_our_vocabularies(tmp_path / "ours")
    return tmp_path


@pytest.mark.parametrize("kind", ["dcp", "safetensors", "parquet"])
def test_every_matched_id_has_its_vector_and_state_on_any_number_of_ranks(root: Path, kind: str) -> None:
    made = write_source(root, kind)
    ours = targets(root / "ours")
    found = alone(config_of(root, kind), ours)
    for name, (vectors, state) in made.items():
        theirs = {i: n for n, i in enumerate(their_ids(name))}
        mine = ["", *ids_of(name, next(t.rows for t in ours if t.name == name) - 1, seed=1)]
        matched = 0
        for row, text in enumerate(mine):
            after, moment = found["after"][f"table/{name}"][row], found["after"][f"moment/{name}.momentum1"][row]
            if text in theirs:
                assert np.array_equal(after, vectors[theirs[text]].numpy()), (name, row)
                assert moment == state[theirs[text]].item()
                matched += 1
            else:
                assert np.array_equal(after, found["before"][f"table/{name}"][row]), (name, row)
                assert moment == 0
        report = next(t for t in found["report"]["tables"] if t["table"] == name)
        assert (report["matched"], report["new"]) == (matched, len(mine) - 1 - matched)
        assert report["dropped"] == ROWS[name] - matched
        assert report["optimizer_state"] == "carried: row-wise Adagrad"
        assert matched > 0
    assert any(t["new"] for t in found["report"]["tables"])
    for size, places in PLACES.items():
        for other in on_ranks(size, config_of(root, kind), ours, places):
            assert_same(other, found)


def test_shares_are_of_training_occurrences(root: Path) -> None:
    write_source(root, "parquet")
    found = alone(config_of(root, "parquet"), targets(root / "ours"))
    report = next(t for t in found["report"]["tables"] if t["table"] == "genre")
    counts = dict(zip(ids_of("genre", 6, seed=1), range(11, 5, -1), strict=True))
    seen = sum(n for i, n in counts.items() if i in their_ids("genre"))
    assert report["seen_matched"] == pytest.approx(seen / sum(counts.values()))
    assert report["seen_matched"] + report["seen_new"] + report["seen_unknown"] == pytest.approx(1)


@pytest.mark.parametrize(("stored", "rule"), [(6, "pad"), (12, "truncate"), (5, "project"), (12, "project")])
def test_other_widths_are_alike_on_any_number_of_ranks(root: Path, stored: int, rule: str) -> None:

    ids = their_ids("item")
    vectors = random_vectors(len(ids), stored)
    write_parquet(root / "source" / "item.parquet", ids, vectors, momentum1=np.ones(len(ids), np.float32))
    config = WarmStart(source=str(root / "source"), tables={"item": TableWarmStart(dim=rule)}, trained_until=0)
    found = alone(config, targets(root / "ours"))
    theirs = {i: n for n, i in enumerate(ids)}
    for row, text in enumerate(ids_of("item", 100, seed=1), start=1):
        if text not in theirs:
            continue
        vector, after = vectors[theirs[text]].numpy(), found["after"]["table/item"][row]
        if rule == "project":
            np.testing.assert_allclose(after, vector.astype(np.float64) @ projection(stored, 8, 0), rtol=0, atol=1e-6)
        else:
            assert np.array_equal(after, np.pad(vector, (0, max(0, 8 - stored)))[:8])
        assert found["after"]["moment/item.momentum1"][row] == 1
    assert rule[:3] in next(t for t in found["report"]["tables"] if t["table"] == "item")["change"]
    for size, places in PLACES.items():
        for other in on_ranks(size, config, targets(root / "ours"), places):
            assert_same(other, found)


def test_new_rows_of_the_mean_are_alike_on_any_number_of_ranks(root: Path) -> None:
    made = write_source(root, "dcp")
    config = config_of(root, "dcp", new_rows="mean")
    found = alone(config, targets(root / "ours"))
    mine, theirs = ids_of("word", 29, seed=1), {i: n for n, i in enumerate(their_ids("word"))}
    matched = [theirs[i] for i in mine if i in theirs]
    expected = made["word"][0][matched].double().mean(dim=0).float().numpy()
    for row, text in enumerate(mine, start=1):
        if text not in theirs:
            np.testing.assert_allclose(found["after"]["table/word"][row], expected, rtol=0, atol=1e-7)
    assert np.array_equal(found["after"]["table/word"][0], found["before"]["table/word"][0])
    for size, places in PLACES.items():
        for other in on_ranks(size, config, targets(root / "ours"), places):
            assert_same(other, found)


def test_column_pieces_take_their_columns(root: Path) -> None:
    """Wide enough that TorchRec cuts columns; element-wise Adagrad, whose state is cut alike."""
    results = run_ranks(columns_on_ranks, 2, root)
    assert all(r for r in results)


def columns_on_ranks(group: Group, root: Path) -> bool:

    table = Table(name="item", rows=101, dim=256, init_std=0.1, bags=False, sharding="column_wise")
    one = EmbeddingConfig(name="item", embedding_dim=256, num_embeddings=101, feature_names=["item"])
    model = torch.nn.Sequential(EmbeddingCollection(tables=[one], device=torch.device("meta")), torch.nn.Linear(2, 2))
    optimizer = TableOptimizer(kind=OptimizerKind.ADAGRAD)
    parallel = parallelize(model, [table], ShardingConfig(optimizer=optimizer), group)
    ids, vectors, state = their_ids("item"), random_vectors(150, 256), random_vectors(150, 256, 5).abs()
    if group.is_main:
        name = "a.embeddings.item.weight"
        write_safetensors(root / "wide.safetensors", {name: vectors, f"table_optimizer.{name}.item.momentum1": state})
        write_vocabulary(root / "wide.parquet", ids, range(150))
    group.barrier()
    settings = TableWarmStart(ids=VocabularyIds(path=str(root / "wide.parquet")), new_rows="mean")
    config = WarmStart(source=str(root / "wide.safetensors"), tables={"item": settings})
    ours = TargetTable("item", 101, 256, 0.1, None, root / "ours" / "item.parquet")
    warm_start(config, parallel, [ours], log_manifest(), OptimizerKind.ADAGRAD)
    theirs = {i: n for n, i in enumerate(ids)}
    rows, sources = zip(
        *((r, theirs[i]) for r, i in enumerate(ids_of("item", 100, seed=1), start=1) if i in theirs), strict=True
    )
    new = [r for r in range(1, 101) if r not in rows]
    pieces, moments = list(local_shards(parallel.model)), state_shards(parallel.fused_optimizer, "item")
    assert pieces
    assert all(p.weight.shape[1] < 256 for p in pieces)
    mean = vectors[list(sources)].double().mean(dim=0).float()
    for whole, shards in ((vectors, pieces), (state, moments)):
        for shard in shards:
            columns = slice(shard.offset[1], shard.offset[1] + shard.weight.shape[1])
            assert torch.equal(shard.weight[list(rows)], whole[list(sources)][:, columns])
    for shard in pieces:
        columns = slice(shard.offset[1], shard.offset[1] + shard.weight.shape[1])
        assert torch.allclose(shard.weight[new], mean[columns].expand(len(new), -1), atol=1e-7, rtol=0)
    return True


def test_reset_state_is_that_of_a_fresh_start_even_after_a_step(root: Path) -> None:
    write_source(root, "parquet")
    config = config_of(root, "parquet", optimizer_state="reset")
    with open_group("cpu") as group:
        parallel = build(group, "rowwise_adagrad", {})
        step(parallel, torch.optim.SGD(parallel.dense_parameters.values(), lr=0.1), 1)
        assert sum(float(s.weight.sum()) for s in state_shards(parallel.fused_optimizer, "item")) > 0
        report = warm_start(config, parallel, targets(root / "ours"), log_manifest(), OptimizerKind.ROWWISE_ADAGRAD)
        for name in ROWS:
            assert all(not s.weight.any() for s in state_shards(parallel.fused_optimizer, name))
            assert report.table(name).optimizer_state == "reset, as asked"


def test_a_table_that_the_source_lacks_is_left_alone_and_listed(root: Path) -> None:
    write_source(root, "dcp")
    config = config_of(root, "dcp")
    tables = {name: own for name, own in config.tables.items() if name != "age"}
    config = config.model_copy(update={"tables": tables, "skip": ("age",)})
    found = alone(config, targets(root / "ours"))
    assert np.array_equal(found["after"]["table/age"], found["before"]["table/age"])
    assert next(t for t in found["report"]["tables"] if t["table"] == "age")["left_alone"] == "skipped, as asked"


def refusal(config: WarmStart, root: Path, **hash_rows: int) -> str:
    """The message of a refused warm start, the same on one rank and on both of two."""
    with open_group("cpu") as group, pytest.raises((CheckpointError, ConfigError)) as caught:
        start(group, config, targets(root / "ours", **hash_rows), {})
    both = run_ranks(refused, 2, config, root, hash_rows)
    assert both[0] == both[1]
    return str(caught.value)


def refused(group: Group, config: WarmStart, root: Path, hash_rows: dict[str, int]) -> str:
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        start(group, config, targets(root / "ours", **hash_rows), {"item": "row_wise"})
    return str(caught.value)


def test_nothing_that_matches_shows_ids_of_both_sides(root: Path) -> None:
    write_parquet(root / "source" / "item.parquet", [10, 20, 30], random_vectors(3, 8))
    message = refusal(WarmStart(source=str(root / "source")), root)
    assert "table item: no id of ours is in table 'item'" in message
    assert "the source's like '10', '20', '30'" in message
    assert "Ours look like 'item" in message


def test_a_table_asked_for_by_name_must_be_there(root: Path) -> None:
    write_parquet(root / "source" / "items.parquet", ["item1"], random_vectors(1, 8))
    config = WarmStart(source=str(root / "source"), tables={"item": TableWarmStart()})
    assert "has no table 'item', which warm_start.tables.item asks for; it has items" in refusal(config, root)
    message = refusal(WarmStart(source=str(root / "source")), root)
    assert "has none of our tables (item, genre, age, word)" in message
    message = refusal(WarmStart(source=str(root / "source"), skip=("itm",)), root)
    assert "warm_start.skip names itm; the model has age, genre, item, word" in message


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_numbers_that_are_not_finite_are_named(root: Path, value: float) -> None:
    ids = their_ids("item")
    vectors = random_vectors(len(ids), 8)
    at = next(n for n, i in enumerate(ids) if i in set(ids_of("item", 100, seed=1)))
    vectors[at, 3] = value
    write_parquet(root / "source" / "item.parquet", ids, vectors)
    message = refusal(WarmStart(source=str(root / "source")), root)
    assert f"table item: source row {at} (for our row " in message
    assert f"holds {value} in " in message
    assert "item.parquet" in message


def test_another_scale_is_doubted(root: Path) -> None:
    write_parquet(root / "source" / "item.parquet", their_ids("item"), random_vectors(150, 8) * 1000)
    found = alone(WarmStart(source=str(root / "source"), trained_until=0), targets(root / "ours"))
    (warning,) = found["report"]["warnings"]
    assert "table item: matched rows have a root mean square of" in warning
