from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctr_rec.errors import DataError
from ctr_rec.evaluate.predictions import Predictions


def _rows() -> Predictions:
    return Predictions(
        impression=np.array([7, 2, 5]),
        user=np.array([1, 0, 1]),
        item=np.array([3, 4, 5]),
        request_time=np.array([30, 10, 20]),
        history_length=np.array([2, 0, 1]),
        item_is_new=np.array([False, True, False]),
        label=np.array([1, 0, 1], np.float32),
        logit=np.array([0.5, -0.25, 0.125], np.float32),
    )


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "test.parquet"
    _rows().save(path)
    for name, value in vars(_rows()).items():
        found = getattr(Predictions.load(path), name)
        assert np.array_equal(found, value)
        assert found.dtype == value.dtype, name
    assert list(path.parent.iterdir()) == [path]


def test_raw_ids_stand_beside_the_numbers(tmp_path: Path) -> None:
    path = tmp_path / "test.parquet"
    _rows().save(path, {"user_id": pa.array(["b", "a", "b"])})
    assert pq.read_table(path)["user_id"].to_pylist() == ["b", "a", "b"]
    assert len(Predictions.load(path)) == 3


def test_sorted_is_by_impression_with_every_column() -> None:
    rows = _rows().sorted()
    assert rows.impression.tolist() == [2, 5, 7]
    assert rows.item.tolist() == [4, 5, 3]
    assert rows.logit.tolist() == [-0.25, 0.125, 0.5]


def test_missing_damaged_and_incomplete_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "test.parquet"
    with pytest.raises(DataError, match=r"no predictions at .*test\.parquet; run `ctr-rec evaluate`"):
        Predictions.load(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"test\.parquet is not a readable Parquet file .*predict again"):
        Predictions.load(path)
    pq.write_table(pa.table({"impression": [1]}), path)
    with pytest.raises(DataError, match=r"lacks column user, item, request_time"):
        Predictions.load(path)
