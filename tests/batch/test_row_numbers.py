"""An id has one number, at whatever row and in whatever slice it is asked for; a damaged vocabulary is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctr_rec.batch.row_numbers import VocabularyNumbers
from ctr_rec.errors import DataError
from ctr_rec.prepare.vocabulary import vocabulary_path
from ctr_rec.schema.hashing import hash64
from ctr_rec.schema.manifest import LogManifest
from tests.prepare.raws import build, random_raw


@pytest.fixture
def log(tmp_path: Path) -> tuple[Path, LogManifest]:
    return tmp_path / "log", build(random_raw(), tmp_path / "log")


def expected(log: Path, table: str, rows: int) -> list[int]:
    """Row 0, then the hash of each row's id, by loops."""
    ids = {e["row"]: e["id"] for e in pq.read_table(vocabulary_path(log, table)).to_pylist() if e["row"]}
    return [0, *(int(hash64([ids[row]])[0]) for row in range(1, rows))]


@pytest.mark.parametrize("row_group", [1, 3, 1000])
@pytest.mark.parametrize("stored", [True, False])
def test_slices_of_any_size_have_the_hashes_of_their_ids(
    log: tuple[Path, LogManifest], row_group: int, stored: bool
) -> None:
    folder, manifest = log
    path, rows = vocabulary_path(folder, "item"), manifest.tables["item"].rows
    table = pq.read_table(path)
    pq.write_table(table if stored else table.drop_columns(["hash"]), path, row_group_size=row_group)
    whole = expected(folder, "item", rows)
    for step in (1, 4, rows):
        numbers = VocabularyNumbers(str(folder), manifest)
        found = [numbers("item", first, min(first + step, rows)) for first in range(0, rows, step)]
        assert np.concatenate(found).tolist() == whole
    assert numbers("item", 2, 2).tolist() == []
    assert numbers("country", 0, 3).tolist() == expected(folder, "country", 3)
    assert numbers("item", 3, 5).tolist() == whole[3:5]


def test_hashed_rows_stand_for_themselves(log: tuple[Path, LogManifest]) -> None:
    assert VocabularyNumbers(str(log[0]), log[1])("word", 0, 12).tolist() == list(range(12))


def test_a_rank_reads_the_row_groups_of_its_rows_only(
    log: tuple[Path, LogManifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = vocabulary_path(log[0], "item")
    pq.write_table(pq.read_table(path), path, row_group_size=2)
    read: list[int] = []
    plain = pq.ParquetFile.read_row_groups
    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", lambda f, i, **k: read.extend(i) or plain(f, i, **k))
    numbers = VocabularyNumbers(str(log[0]), log[1])
    for row in (3, 4, 5, 6):
        numbers("item", row, row + 1)
    assert read == [1, 2]


def test_a_vocabulary_in_another_order_is_refused(log: tuple[Path, LogManifest]) -> None:
    path = vocabulary_path(log[0], "country")
    table = pq.read_table(path)
    pq.write_table(table.take(pa.array([1, 0, 2])), path)
    with pytest.raises(DataError, match=r"column 'row' of .*country.parquet, row group 0, row 0: expected 1 .*, got 2"):
        VocabularyNumbers(str(log[0]), log[1])("country", 0, 3)


def test_a_vocabulary_that_is_too_short_or_missing_is_named(log: tuple[Path, LogManifest]) -> None:
    path = vocabulary_path(log[0], "country")
    pq.write_table(pq.read_table(path).slice(0, 1), path)
    with pytest.raises(DataError, match=r"country.parquet: the manifest says 4 rows, the file has 1 ids; run"):
        VocabularyNumbers(str(log[0]), log[1])("country", 0, 1)
    path.unlink()
    with pytest.raises(DataError, match=r"country.parquet: no such file"):
        VocabularyNumbers(str(log[0]), log[1])("country", 0, 1)
