"""Predictions: one row per impression, as arrays in memory and as a Parquet file of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ctr_rec.errors import DataError


@dataclass(frozen=True)
class Predictions:
    """Arrays of one length. impression: unique within the log; user and item: their numbers in the prepared log.

    request_time is in the log's unit; history_length counts the events visible to the impression before any cut;
    item_is_new: the item's first event lies after the training range.
    """

    impression: npt.NDArray[np.int64]
    user: npt.NDArray[np.int64]
    item: npt.NDArray[np.int64]
    request_time: npt.NDArray[np.int64]
    history_length: npt.NDArray[np.int64]
    item_is_new: npt.NDArray[np.bool_]
    label: npt.NDArray[np.float32]
    logit: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.label)

    def sorted(self) -> Predictions:
        """In order of impression, so that the file does not depend on ranks or batches."""
        order = np.argsort(self.impression, kind="stable")
        return Predictions(**{f.name: getattr(self, f.name)[order] for f in fields(self)})

    def save(self, path: Path, raw_ids: Mapping[str, pa.Array] | None = None) -> None:
        """Writes Parquet, complete or not at all. raw_ids: columns beside the numbers, for people who join on them."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        pq.write_table(pa.table({**columns, **(raw_ids or {})}), partial, compression="zstd")
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Raises DataError naming the file when it is missing, damaged, or lacks a column."""
        if not path.is_file():
            raise DataError(f"no predictions at {path}; run `ctr-rec evaluate` on this run first")
        try:
            table = pq.read_table(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{path} is not a readable Parquet file ({error}); predict again") from error
        missing = [f.name for f in fields(cls) if f.name not in table.column_names]
        if missing:
            raise DataError(f"{path} lacks column {', '.join(missing)}; it has {table.column_names}")
        return cls(**{f.name: table[f.name].to_numpy() for f in fields(cls)})
