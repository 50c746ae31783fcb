"""The fingerprint sees every value, and neither chunks nor slices nor file formats."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ctr_rec.prepare.fingerprint import Fingerprint, source_file
from ctr_rec.schema.log import Split
from tests.prepare.raws import SIMPLE_SPLIT, simple_schema


def table(**changed: Any) -> pa.Table:
    values: dict[str, Any] = {
        "number": pa.array([1, 2, 3], pa.int32()),
        "list": pa.array([[1.0], [], [2.0, 3.0]], pa.list_(pa.float32())),
        "nested": pa.array([[[1], []], [], [[2]]], pa.list_(pa.list_(pa.int32()))),
        "vector": pa.array([[1.0, 2.0]] * 3, pa.list_(pa.float32(), 2)),
        "text": pa.array(["ab", "", "c"]),
        "truth": pa.array([[True], [False], []], pa.list_(pa.bool_())),
    }
    return pa.table({**values, **changed})


def fingerprint(*tables: pa.Table, split: Split = SIMPLE_SPLIT) -> str:
    found = Fingerprint(simple_schema(), split)
    for each in tables:
        found.add("t", each)
    return found.value()


def test_chunks_and_slices_do_not_show() -> None:
    whole = table()
    chunked = pa.concat_tables([whole.slice(0, 1), whole.slice(1)])
    sliced = pa.concat_tables([table(), whole]).combine_chunks().slice(3)
    assert fingerprint(chunked) == fingerprint(whole) == fingerprint(sliced)


@pytest.mark.parametrize(
    "changed",
    [
        {"number": pa.array([1, 2, 4], pa.int32())},
        {"list": pa.array([[1.0, 2.0], [], [3.0]], pa.list_(pa.float32()))},
        {"nested": pa.array([[[1]], [[]], [[2]]], pa.list_(pa.list_(pa.int32())))},
        {"vector": pa.array([[1.0, 2.0], [1.0, 2.5], [1.0, 2.0]], pa.list_(pa.float32(), 2))},
        {"text": pa.array(["a", "b", "c"])},
        {"truth": pa.array([[True], [True], []], pa.list_(pa.bool_()))},
    ],
)
def test_every_value_and_boundary_shows(changed: dict[str, pa.Array]) -> None:
    assert fingerprint(table(**changed)) != fingerprint(table())


def test_names_split_and_order_show() -> None:
    assert fingerprint(table().rename_columns(["n", *table().column_names[1:]])) != fingerprint(table())
    assert fingerprint(table(), split=Split(train_end=1, valid_end=2)) != fingerprint(table())
    assert Fingerprint(simple_schema(), SIMPLE_SPLIT, ("a",)).value() != fingerprint()
    other = table(number=pa.array([9, 9, 9], pa.int32()))
    assert fingerprint(table(), other) != fingerprint(other, table())


def test_empty_tables_count() -> None:
    assert fingerprint(table().slice(0, 0)) != fingerprint()


def test_a_source_file_is_named_by_size_and_hash(tmp_path: Path) -> None:
    data = np.arange(300_000).tobytes()
    (tmp_path / "raw.bin").write_bytes(data)
    found = source_file(tmp_path / "raw.bin")
    assert (found.name, found.bytes, found.sha256) == ("raw.bin", len(data), hashlib.sha256(data).hexdigest())
