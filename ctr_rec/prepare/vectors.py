"""Reads a file of item vectors (see schema/content.py), checked and scaled to length 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from ctr_rec.errors import DataError
from ctr_rec.schema.content import ITEM_ID, VECTOR


def read_vectors(file: Path) -> tuple[pl.DataFrame, int]:
    """(item_id, vector), each vector a list of float32 at length 1 (zeros stay zeros), and how many numbers it has.

    Raises:
        DataError: no Parquet file, other columns, an id twice, or vectors that are ragged or not finite.
    """
    try:
        frame = pl.read_parquet(file, columns=[ITEM_ID, VECTOR])
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(
            f"--content {file}: expected Parquet with columns {ITEM_ID} and {VECTOR} (a list of numbers), got "
            f"{str(error).splitlines()[0]}; make it with `ctr-rec content`, or write your own"
        ) from error
    kind = frame.schema[VECTOR]
    inner = pl.List(kind.inner).inner if isinstance(kind, (pl.List, pl.Array)) and kind.inner is not None else None
    ids = frame.schema[ITEM_ID]
    if not isinstance(inner, pl.DataType) or not inner.is_float() or not (ids.is_integer() or ids == pl.String):
        raise DataError(
            f"--content {file}: expected {ITEM_ID} an integer or a string and {VECTOR} a list of floats, got {ids} and "
            f"{kind}; cast them"
        )
    frame = frame.with_columns(pl.col(VECTOR).cast(pl.List(pl.Float32)))
    _refuse(frame, pl.col(ITEM_ID).is_null() | pl.col(ITEM_ID).is_duplicated(), file, "every item once")
    dim = int(frame[VECTOR].list.len().max() or 0)  # pyright: ignore[reportArgumentType]
    length = pl.col(VECTOR).list.len().fill_null(0)
    _refuse(frame, (length != dim) | (length == 0), file, f"{dim or 'some'} numbers in every vector")
    values = frame[VECTOR].explode().to_numpy().reshape(-1, dim)
    bad = pl.Series(~np.isfinite(values).all(axis=1))
    _refuse(frame, pl.lit(bad), file, "finite numbers")
    column = pl.Series(VECTOR, normalised(values), dtype=pl.Array(pl.Float32, dim)).cast(pl.List(pl.Float32))
    return frame.select(ITEM_ID).with_columns(column), dim


def normalised(vectors_ND: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Each row at length 1, rows of zeros as they are. [N, D]"""
    wide = vectors_ND.astype(np.float64)
    length = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    return (wide / np.where(length > 0, length, 1.0)).astype(np.float32)


def _refuse(frame: pl.DataFrame, bad: pl.Expr, file: Path, expected: str) -> None:
    found = frame.filter(bad)
    if frame.height and not found.height:
        return
    got = f"{found.height} other rows, the first of item {found[ITEM_ID][0]!r}" if found.height else "no row"
    raise DataError(f"--content {file}: expected {expected}, got {got}; mend the file, or leave such items out")
