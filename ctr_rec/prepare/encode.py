"""Encoded columns: raw values to table rows and Arrow arrays of the stored format."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from ctr_rec.prepare.vocabulary import Rows
from ctr_rec.schema.log import Feature, Kind, LogSchema, Side

Int64 = npt.NDArray[np.int64]


def feature_array(values: pl.Series, f: Feature, rows: Mapping[str, Rows]) -> pa.Array:
    """One array entry per value: int32 row, list of int32 rows, float32, fixed-size list of float32, or string."""
    if f.kind is Kind.CATEGORY:
        return pa.array(rows[f.table or ""].encode(values), pa.int32())
    if f.kind is Kind.CATEGORIES:
        lengths = values.list.len().fill_null(0).to_numpy()
        flat = values.explode().drop_nulls()
        return pa.ListArray.from_arrays(_offsets(lengths), pa.array(rows[f.table or ""].encode(flat), pa.int32()))
    if f.kind is Kind.NUMBER:
        return pa.array(values.to_numpy().astype(np.float32), pa.float32())
    if f.kind is Kind.VECTOR:
        # An absent vector is all zeros.
        vectors = np.zeros((len(values), f.dim or 0), np.float32)
        vectors[values.is_not_null().to_numpy()] = values.drop_nulls().explode().to_numpy().reshape(-1, f.dim or 0)
        return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1), pa.float32()), f.dim)
    # Absent text is empty.
    return pa.array(values.fill_null("").to_list(), pa.string())


def raw_ids(values: pl.Series) -> pa.Array:
    """Raw ids as int64 or string."""
    return values.to_arrow().cast(pa.string()) if values.dtype == pl.String else pa.array(values.to_numpy(), pa.int64())


def side_columns(frame: pl.DataFrame, schema: LogSchema, side: Side, rows: Mapping[str, Rows]) -> dict[str, pa.Array]:
    """The attributes of users or items, in declared order."""
    return {f.name: feature_array(frame[f.name], f, rows) for f in schema.of(side)}


def event_columns(
    events: pl.DataFrame, schema: LogSchema, rows: Mapping[str, Rows], counted: Mapping[str, npt.NDArray[np.float32]]
) -> dict[str, pa.Array]:
    """Flat event columns of the stored format, before they are sliced into users.

    events: arranged, with `item` (item number). counted: `<counter>_count` and `<counter>_rate`, one per event.
    """
    columns: dict[str, pa.Array] = {
        "time": pa.array(events["time"].to_numpy(), pa.int64()),
        "request_time": pa.array(events["request_time"].to_numpy(), pa.int64()),
        "request": pa.array(events["request"].to_numpy(), pa.int64()),
        "item": pa.array(events["item"].to_numpy(), pa.int32()),
        "impression": pa.array(events["impression"].to_numpy(), pa.bool_()),
        "action": pa.array(action_codes(events["action"], schema), pa.int16()),
    }
    for name in schema.labels:
        columns[f"label_{name}"] = pa.array(labels_of(events, name), pa.int8())
    for f in schema.of(Side.EVENT):
        columns[f.name] = feature_array(events[f.name], f, rows)
    for name, values in counted.items():
        columns[name] = pa.array(values, pa.float32())
    return columns


def by_user(columns: Mapping[str, pa.Array], offsets: Int64, first_user: int) -> pa.Table:
    """Slices flat event columns into one row per user. offsets: [U+1]; users are numbered from `first_user`."""
    ends = pa.array(offsets, pa.int32())
    users = pa.array(np.arange(first_user, first_user + len(offsets) - 1), pa.int64())
    arrays = {name: pa.ListArray.from_arrays(ends, values) for name, values in columns.items()}
    return pa.table({"user": users, **arrays})


def action_codes(actions: pl.Series, schema: LogSchema) -> npt.NDArray[np.int16]:
    """Codes as they are, or looked up from names (already checked)."""
    if actions.dtype == pl.String:
        codes = {name: code for code, name in enumerate(schema.actions)}
        return actions.replace_strict(codes, return_dtype=pl.Int16).to_numpy()
    return actions.to_numpy().astype(np.int16)


def labels_of(events: pl.DataFrame, label: str) -> npt.NDArray[np.int8]:
    """0 or 1, and -1 where the event is no impression."""
    value = pl.when("impression").then(pl.col(f"label_{label}")).otherwise(-1)
    return events.select(value.cast(pl.Int8)).to_series().to_numpy()


def _offsets(lengths: npt.NDArray[np.integer]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), pa.int32())
