from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctr_rec.errors import DataError
from ctr_rec.evaluate.identity import new_users, raw_ids
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.schema.manifest import load_manifest
from tests.batch.logs import random_users, write_log


def _predictions(user: list[int], item: list[int]) -> Predictions:
    zeros = np.zeros(len(user), np.int64)
    return Predictions(
        impression=np.arange(len(user)),
        user=np.array(user, np.int64),
        item=np.array(item, np.int64),
        request_time=zeros,
        history_length=zeros,
        item_is_new=zeros.astype(bool),
        label=zeros.astype(np.float32),
        logit=zeros.astype(np.float32),
    )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    write_log(tmp_path, random_users(seed=1, count=20))
    return tmp_path


def test_numbers_become_raw_ids_over_several_files(log: Path) -> None:
    found = raw_ids(str(log), load_manifest(log), _predictions([19, 0, 7, 7], [38, 1, 0, 1]))
    assert found["user_id"].to_pylist() == ["u19", "u0", "u7", "u7"]
    assert found["item_id"].to_pylist() == ["i38", "i1", "i0", "i1"]


def test_ids_keep_the_type_of_the_raw_log(log: Path) -> None:
    path = log / "items" / "items.parquet"
    table = pq.read_table(path)
    numbers = pa.array(range(500, 500 + len(table)), pa.int64())
    pq.write_table(table.set_column(table.column_names.index("item_id"), "item_id", numbers), path)
    assert raw_ids(str(log), load_manifest(log), _predictions([0], [2]))["item_id"].equals(pa.array([502]))


def test_no_predictions_have_no_ids(log: Path) -> None:
    found = raw_ids(str(log), load_manifest(log), _predictions([], []))
    assert len(found["user_id"]) == len(found["item_id"]) == 0


def test_a_number_that_the_log_does_not_have_is_refused(log: Path) -> None:
    with pytest.raises(DataError, match=r"expected a raw id for number 39, the log has none.*prepare"):
        raw_ids(str(log), load_manifest(log), _predictions([0], [39]))


def test_new_users_have_no_event_in_the_training_range(log: Path) -> None:
    manifest = load_manifest(log)
    first = {}
    for path in sorted((log / "events").glob("*.parquet")):
        for row in pq.read_table(path, columns=["user", "time"]).to_pylist():
            first[row["user"]] = min(row["time"], default=10**9)
    expected = [first[user] > manifest.split.train_end for user in range(manifest.users)]
    assert new_users(str(log), manifest).tolist() == expected
    assert 0 < sum(expected) < len(expected)
