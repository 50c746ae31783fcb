"""Arrow arrays of every kind, sliced by user."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from ctr_rec.prepare.encode import action_codes, by_user, feature_array, labels_of, raw_ids
from ctr_rec.prepare.vocabulary import Rows
from ctr_rec.schema.log import Feature, Kind, Side, Vocabulary
from tests.prepare.raws import simple_schema

COUNTS = pl.DataFrame({"id": ["a", "b"], "count": [2, 1]})
ROWS = {"f": Rows(Vocabulary(table="f"), COUNTS)}


@pytest.mark.parametrize(
    ("kind", "values", "kind_of_array", "expected"),
    [
        (Kind.CATEGORY, ["b", "a"], pa.int32(), [2, 1]),
        (Kind.CATEGORIES, [["b", "a"], [], None, ["a"]], pa.list_(pa.int32()), [[2, 1], [], [], [1]]),
        (Kind.NUMBER, [1.5, 2.0], pa.float32(), [1.5, 2.0]),
        (Kind.VECTOR, [[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2), [[1.0, 2.0], [3.0, 4.0]]),
        (Kind.VECTOR, [None, [3.0, 4.0], None], pa.list_(pa.float32(), 2), [[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]),
        (Kind.TEXT, ["x", None], pa.string(), ["x", ""]),
    ],
)
def test_each_kind(kind: Kind, values: list, kind_of_array: pa.DataType, expected: list) -> None:
    table = "f" if kind in (Kind.CATEGORY, Kind.CATEGORIES) else None
    f = Feature(name="f", kind=kind, side=Side.ITEM, table=table, dim=2 if kind is Kind.VECTOR else None)
    array = feature_array(pl.Series(values), f, ROWS)
    assert array.type == kind_of_array
    assert array.to_pylist() == expected
    empty = feature_array(pl.Series(values).head(0), f, ROWS)
    assert empty.type == kind_of_array
    assert len(empty) == 0


def test_raw_ids_keep_their_type() -> None:
    assert raw_ids(pl.Series([3, 1])).type == pa.int64()
    assert raw_ids(pl.Series(["x"])).type == pa.string()


def test_actions_by_code_or_name() -> None:
    schema = simple_schema()
    assert action_codes(pl.Series([1, 0]), schema).tolist() == [1, 0]
    assert action_codes(pl.Series(["yes", "no"]), schema).tolist() == [1, 0]


def test_labels_are_minus_one_off_impressions() -> None:
    frame = pl.DataFrame({"impression": [True, False, True], "label_click": [1.0, None, 0.0]})
    assert labels_of(frame, "click").tolist() == [1, -1, 0]


def test_users_slice_flat_columns() -> None:
    nested = pa.ListArray.from_arrays(pa.array([0, 2, 2, 3], pa.int32()), pa.array([7, 8, 9], pa.int32()))
    table = by_user({"x": pa.array([1, 2, 3]), "y": nested}, np.array([0, 2, 2, 3]), 10)
    assert table.to_pydict() == {"user": [10, 11, 12], "x": [[1, 2], [], [3]], "y": [[[7, 8], []], [], [[9]]]}
