from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from ctr_rec.checkpoint.export.row_ids import RowIds, find_ids
from ctr_rec.checkpoint.manifest import Manifest
from ctr_rec.checkpoint.tensors import Contents, read_contents
from ctr_rec.errors import CheckpointError, DataError
from ctr_rec.schema.manifest import load_manifest
from tests.batch.logs import random_users, write_log


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log whose vocabulary of items has rare ids in row 0 and its rows in no order."""
    write_log(tmp_path / "log", random_users(seed=3, count=10))
    (tmp_path / "log" / "vocabulary").mkdir(exist_ok=True)
    _write(tmp_path / "log", ["c", "rare", "a", "b"], [3, 0, 1, 2])
    return tmp_path / "log"


def _write(log: Path, ids: list[str], rows: list[int]) -> None:
    table = pa.table({"id": ids, "row": pa.array(rows, pa.int32()), "count": pa.array(rows, pa.int64())})
    pq.write_table(table, log / "vocabulary" / "item.parquet")


@pytest.fixture
def contents(tmp_path: Path) -> Contents:
    state = {f"model.x.embeddings.{name}.weight": torch.zeros(5, 2) for name in ("item", "unknown")}
    save_distributed(state, checkpoint_id=tmp_path / "dcp", no_dist=True)
    return read_contents(tmp_path / "dcp")


def _find(manifest: Manifest | None, contents: Contents, log: str | None) -> tuple[dict[str, RowIds], list[str]]:
    said: list[str] = []
    return find_ids(manifest, contents, log, said.append), said


def _of(log: Path, fingerprint: str | None = None) -> Manifest:
    found = load_manifest(log).fingerprint if fingerprint is None else fingerprint
    return Manifest(step=1, config={"data": {"log": str(log)}}, data_fingerprint=found)


def test_ids_come_from_the_runs_own_log_in_the_order_of_rows(log: Path, contents: Contents) -> None:
    found, said = _find(_of(log), contents, None)
    assert said == []
    assert list(found) == ["item"]
    assert found["item"].ids.to_pylist() == ["a", "b", "c"]
    rows, ids = found["item"].between(2, 9)
    assert (rows.tolist(), ids.to_pylist()) == ([2, 3], ["b", "c"])
    assert np.array_equal(found["item"].between(4, 5)[0], [])


def test_a_given_log_serves_a_checkpoint_of_another_job(log: Path, contents: Contents) -> None:
    assert list(_find(None, contents, str(log))[0]) == ["item"]


def test_without_a_log_rows_have_no_ids_and_it_is_told(log: Path, contents: Contents) -> None:
    found, said = _find(_of(log / "gone", "any"), contents, None)
    assert found == {}
    assert "gone: rows are written without ids; --log names the log that has them" in said[0]
    assert _find(None, contents, None)[0] == {}


def test_a_log_that_changed_is_told_and_one_that_is_given_is_refused(log: Path, contents: Contents) -> None:
    found, said = _find(_of(log, "another"), contents, None)
    assert found == {}
    assert "fingerprint another, the log" in said[0]
    with pytest.raises(CheckpointError, match=r"its ids stand for other rows; give --log the log of the run"):
        _find(_of(log, "another"), contents, str(log))


def test_a_vocabulary_that_does_not_fit_or_cannot_be_read(log: Path, contents: Contents) -> None:
    _write(log, ["a"], [5])
    with pytest.raises(CheckpointError, match=r"names rows 5 to 5, the checkpoint's table item has 5"):
        _find(_of(log), contents, None)
    (log / "vocabulary" / "item.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match=r"item.parquet cannot be read as a vocabulary"):
        _find(_of(log), contents, None)
    with pytest.raises(DataError, match=r"nowhere is not a prepared log"):
        _find(None, contents, str(log / "nowhere"))
