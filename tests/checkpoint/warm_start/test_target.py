from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ctr_rec.checkpoint.warm_start.target import TargetTable, target_ids, target_tables, vocabulary_file
from ctr_rec.errors import DataError
from ctr_rec.schema.table import EmbeddingSettings, sparse_spec
from tests.batch.logs import random_users, write_log
from tests.checkpoint.warm_start.cases import write_vocabulary


def table(path: Path, rows: int = 41) -> TargetTable:
    return TargetTable("item", rows, 4, 0.1, None, path)


def test_a_rank_reads_the_ids_of_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"i{n}" for n in range(45)]
    path = write_vocabulary(tmp_path / "v.parquet", ids, [*range(1, 41), *[0] * 5], range(100, 55, -1))
    found = target_ids(table(path), 18, 30)
    assert found.rows.tolist() == list(range(18, 30))
    assert found.ids.to_list() == ids[17:29]
    assert found.counts.tolist() == list(range(83, 71, -1))
    assert (found.unknown, target_ids(table(path), 0, 1).unknown) == (0, 60 + 59 + 58 + 57 + 56)
    assert len(target_ids(table(path), 7, 7).ids) == 0
    groups: list[list[int]] = []
    real = pq.ParquetFile.iter_batches

    def watched(self: pq.ParquetFile, *args: object, **kwargs: object) -> object:
        groups.append(kwargs["row_groups"])  # type: ignore[arg-type]
        return real(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    target_ids(table(path), 18, 30)
    # The last group also holds row 0, so its statistics say nothing.
    assert groups == [[1, 2]]


def test_tables_of_a_log(tmp_path: Path) -> None:
    manifest = write_log(tmp_path, random_users(seed=1))
    spec = sparse_spec(manifest, EmbeddingSettings())
    shutil.rmtree(tmp_path / "vocabulary")
    with pytest.raises(DataError, match=r"vocabulary/gender.parquet: no such file|vocabulary/genre.parquet: no such"):
        target_tables(spec, manifest, str(tmp_path))
    for t in spec.tables:
        write_vocabulary(tmp_path / "vocabulary" / f"{t.name}.parquet", ["a"], [1], [1])
    assert [t.name for t in target_tables(spec, manifest, str(tmp_path))] == [t.name for t in spec.tables]
    assert vocabulary_file(str(tmp_path), "item").is_file()


def test_a_vocabulary_of_another_table(tmp_path: Path) -> None:
    path = write_vocabulary(tmp_path / "v.parquet", ["a"], [41], [1])
    with pytest.raises(DataError, match=r"v.parquet: row 41 in a table of 41; prepare the log again"):
        target_ids(table(path), 0, 41)
    path = write_vocabulary(tmp_path / "v.parquet", ["a"], [4])
    with pytest.raises(DataError, match=r"expected columns id, row, count; prepare the log again"):
        target_ids(table(path), 0, 41)
