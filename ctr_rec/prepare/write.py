"""Writes the stored format: row groups of whole users, bounded in events, counted as they are written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ctr_rec.prepare.fingerprint import Fingerprint
from ctr_rec.schema.log import LogSchema, Split
from ctr_rec.schema.manifest import RowGroup

Int64 = npt.NDArray[np.int64]
COMPRESSION = "zstd"


def cut_users(offsets: Int64, limit: int) -> list[tuple[int, int]]:
    """Runs of whole users with at most `limit` events each; a longer user stands alone. offsets: [U+1]."""
    runs, begin, users = [], 0, len(offsets) - 1
    while begin < users:
        end = int(np.searchsorted(offsets, offsets[begin] + limit, side="right")) - 1
        end = min(max(end, begin + 1), users)
        runs.append((begin, end))
        begin = end
    return runs


def write_table(path: Path, table: pa.Table) -> None:
    """Writes one table as one Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression=COMPRESSION)


class PartWriter:
    """Writes events/part-NNNNN.parquet and users/part-NNNNN.parquet, row group by row group, and counts them."""

    def __init__(self, out: Path, schema: LogSchema, split: Split, row_group_events: int) -> None:
        self.row_groups: list[RowGroup] = []
        self.positives = {name: [0, 0, 0] for name in schema.labels}
        self.users = self.events = 0
        self._out, self._schema, self._split, self._limit = out, schema, split, row_group_events

    def write(self, part: int, events: pa.Table, users: pa.Table, offsets: Int64, fingerprint: Fingerprint) -> None:
        """events, users: one row per user. offsets: [U+1], of the users' events."""
        name = f"part-{part:05d}.parquet"
        for folder in ("events", "users"):
            (self._out / folder).mkdir(parents=True, exist_ok=True)
        with (
            pq.ParquetWriter(self._out / "events" / name, events.schema, compression=COMPRESSION) as event_file,
            pq.ParquetWriter(self._out / "users" / name, users.schema, compression=COMPRESSION) as user_file,
        ):
            for index, (begin, end) in enumerate(cut_users(offsets, self._limit)):
                event_rows, user_rows = events.slice(begin, end - begin), users.slice(begin, end - begin)
                event_file.write_table(event_rows, row_group_size=end - begin)
                user_file.write_table(user_rows, row_group_size=end - begin)
                fingerprint.add("events", event_rows)
                fingerprint.add("users", user_rows)
                self._count(f"events/{name}", index, event_rows)

    def impressions(self) -> tuple[int, int, int]:
        total = np.array([g.impressions for g in self.row_groups], np.int64).reshape(-1, 3).sum(axis=0)
        return (int(total[0]), int(total[1]), int(total[2]))

    def _count(self, file: str, index: int, rows: pa.Table) -> None:
        counts = count_rows(rows, self._schema, self._split)
        self.row_groups.append(
            RowGroup(
                file=file,
                index=index,
                users=rows.num_rows,
                events=counts.events,
                first_event=self.events,
                impressions=counts.impressions,
            )
        )
        self.users += rows.num_rows
        self.events += counts.events
        for name, found in counts.positives.items():
            self.positives[name] = [a + b for a, b in zip(self.positives[name], found, strict=True)]


class Counted:
    """Counts of one row group: events, impressions per split, positives per label and split."""

    def __init__(self, events: int, split: npt.NDArray[np.int64], labels: dict[str, npt.NDArray[np.int8]]) -> None:
        self.events = events
        self.impressions = _per_split(split)
        self.positives = {name: _per_split(split[values == 1]) for name, values in labels.items()}


def flat(rows: pa.Table, column: str) -> np.ndarray:
    """The values of a list column, all users after each other."""
    return rows.column(column).combine_chunks().flatten().to_numpy(zero_copy_only=False)


def count_rows(rows: pa.Table, schema: LogSchema, split: Split) -> Counted:
    """Counts the stored rows of a row group; used when they are written and again when they are checked."""
    impression = flat(rows, "impression").astype(bool)
    number = split.number(flat(rows, "request_time")[impression])
    labels = {name: flat(rows, f"label_{name}")[impression] for name in schema.labels}
    return Counted(len(impression), number, labels)


def _per_split(split: npt.NDArray[np.int64]) -> tuple[int, int, int]:
    counts = np.bincount(split[split >= 0], minlength=3)
    return (int(counts[0]), int(counts[1]), int(counts[2]))
