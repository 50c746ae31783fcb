from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ctr_rec.checkpoint.manifest import Manifest
from ctr_rec.checkpoint.stored_tensor import StoredTensor
from ctr_rec.checkpoint.warm_start.config import HashedIds, Ids, MapIds, OwnIds, VocabularyIds, WarmStart
from ctr_rec.checkpoint.warm_start.id_rule import IdRule, id_rule
from ctr_rec.checkpoint.warm_start.parquet import open_parquet_source
from ctr_rec.checkpoint.warm_start.rows import Piece
from ctr_rec.checkpoint.warm_start.source import Source, from_tensors
from ctr_rec.errors import CheckpointError
from ctr_rec.schema.log import Vocabulary
from tests.batch.logs import random_users, schema, write_log
from tests.checkpoint.warm_start.cases import random_vectors, write_parquet, write_vocabulary


def source(rows: int = 40, manifest: Manifest | None = None) -> Source:
    stored = StoredTensor(Path("f"), 0, torch.float32, (rows, 4))
    return from_tensors("src", "checkpoint", {"a.embeddings.item.weight": ((rows, 4), [Piece(0, 0, stored)])}, manifest)


def rule(ids: Ids | None, found: Source, **settings: Any) -> IdRule:
    table = found.find("item")
    assert table is not None
    return id_rule(ids, found, table, WarmStart(source="src", **settings))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    write_log(tmp_path / "log", random_users(seed=1))
    write_vocabulary(tmp_path / "log" / "vocabulary" / "item.parquet", ["a", "b"], [1, 0], [2, 1])
    return tmp_path / "log"


def ids_in(found: IdRule) -> list[str]:
    assert found.stream is not None
    return [i for batch in found.stream.read() for i in batch.ids.to_list()]


def test_the_log_of_a_run_of_ours_is_known(log: Path) -> None:
    config = {"data": {"log": str(log)}}
    for found in (
        rule(None, source(), log=str(log)),
        rule(None, source(manifest=Manifest(step=1, config=config, data_fingerprint="test"))),
        rule(VocabularyIds(path=str(log)), source()),
    ):
        assert ids_in(found) == ["a"]
        assert found.no_ids == (0,)


def test_a_hashed_table_of_a_log_is_hashed(tmp_path: Path) -> None:
    hashed = tuple(Vocabulary(table=v.table, hash_rows=39) for v in schema().vocabularies)
    write_log(tmp_path, random_users(seed=1), log_schema=schema().model_copy(update={"vocabularies": hashed}))
    assert rule(None, source(), log=str(tmp_path)).hashed == HashedIds(rows=39, first=1)


def test_a_parquet_source_has_its_own_ids(tmp_path: Path) -> None:
    write_parquet(tmp_path / "item.parquet", ["x", "y"], random_vectors(2, 4))
    found = open_parquet_source(tmp_path)
    assert ids_in(rule(None, found)) == ["x", "y"]
    assert ids_in(rule(OwnIds(), found)) == ["x", "y"]


def test_a_map_stands_on_rows_or_on_another_rule(tmp_path: Path) -> None:
    def write(**columns: list) -> str:
        pq.write_table(pa.table(columns), tmp_path / "map.parquet")
        return str(tmp_path / "map.parquet")

    found = rule(MapIds(path=write(id=["a"], source_row=[3])), source())
    assert found.mapped is not None
    assert found.stream is found.hashed is None
    with pytest.raises(CheckpointError, match=r"names source rows, so ids.source_ids would have no effect; remove it"):
        rule(MapIds(path=str(tmp_path / "map.parquet"), source_ids=HashedIds()), source())
    found = rule(MapIds(path=write(id=["a"], source_id=["b"]), source_ids=HashedIds()), source())
    assert found.hashed == HashedIds(rows=39, first=1)
    with pytest.raises(CheckpointError, match="nothing says which id each row of table 'item' of src stands for"):
        rule(MapIds(path=str(tmp_path / "map.parquet")), source())


def test_nothing_says_which_ids(log: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing says which id each row .*; set warm_start.log to the source's"):
        rule(None, source())
    with pytest.raises(CheckpointError, match=r"ids kind=own: table 'item' of src carries no ids; only Parquet"):
        rule(OwnIds(), source())
    with pytest.raises(CheckpointError, match=r"the vocabulary v.parquet does not exist \(looked from"):
        rule(VocabularyIds(path="v.parquet"), source())
    with pytest.raises(CheckpointError, match=r"expected first \+ rows of at most 40"):
        rule(HashedIds(rows=40), source())


def test_a_log_that_is_not_the_sources(log: Path, tmp_path: Path) -> None:
    moved = Manifest(step=1, config={"data": {"log": str(tmp_path / "moved")}}, data_fingerprint="test")
    with pytest.raises(CheckpointError, match=r"moved is not a prepared log: .*; set warm_start.log to where it"):
        rule(None, source(manifest=moved))
    other = Manifest(step=1, data_fingerprint="other")
    with pytest.raises(CheckpointError, match=r"trained on data with fingerprint other, .* has test: its rows"):
        rule(None, source(manifest=other), log=str(log))
    with pytest.raises(CheckpointError, match=r"has 40 rows in table 'item', src has 41: they do not belong together"):
        rule(None, source(41), log=str(log))
