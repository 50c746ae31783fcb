"""Counters of a whole log: by user inside a partition, by item through files partitioned by item."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from ctr_rec.prepare.counters import rate, running
from ctr_rec.prepare.encode import labels_of
from ctr_rec.prepare.statistics import Moments, Statistics
from ctr_rec.schema.log import Counter, LogSchema

Int64 = npt.NDArray[np.int64]
Pair = tuple[Int64, Int64]  # counts and positives, one per event


def counter_columns(
    events: pl.DataFrame,
    offsets: Int64,
    schema: LogSchema,
    statistics: Statistics,
    by_item: Mapping[str, Pair],
    moments: Mapping[str, Moments],
) -> dict[str, npt.NDArray[np.float32]]:
    """`<name>_count` and `<name>_rate` of each event of a partition; adds its training impressions to `moments`.

    The count is stored as it is; `moments` (the manifest's numbers) take it after log1p.
    """
    columns: dict[str, npt.NDArray[np.float32]] = {}
    train = ((events["split"] <= 0) & events["impression"]).to_numpy().astype(np.float64)
    user = np.repeat(np.arange(len(offsets) - 1, dtype=np.int64), np.diff(offsets))
    for c in schema.counters:
        count, positives = by_item[c.name] if c.by == "item" else _run(c, events, user, schema)
        columns[f"{c.name}_count"] = count.astype(np.float32)
        columns[f"{c.name}_rate"] = rate(count, positives, statistics.prior(c.label))
        moments[f"{c.name}_count"].add(np.log1p(count.astype(np.float64)), train)
        moments[f"{c.name}_rate"].add(columns[f"{c.name}_rate"].astype(np.float64), train)
    return columns


def _run(c: Counter, events: pl.DataFrame, owner: Int64, schema: LogSchema) -> Pair:
    known_at = events["time"].to_numpy() + schema.action_delay
    label = events[c.label].to_numpy() if c.label in events.columns else labels_of(events, c.label)
    return running(owner, known_at, events["request_time"].to_numpy(), label)


class ItemCounters:
    """Counters by item of every partition. With several partitions, events travel through files by item number."""

    def __init__(
        self, folder: Path, schema: LogSchema, parts: list[Path], items: pl.DataFrame, statistics: Statistics
    ) -> None:
        self._folder, self._schema, self._parts, self._items = folder, schema, parts, items
        self._counters = [c for c in schema.counters if c.by == "item"]
        self._events = statistics.events_of_part
        if self._counters:
            self._scatter()
            for target in range(len(parts)):
                self._count(target)

    def of(self, part: int) -> dict[str, Pair]:
        """Counts and positives of the partition's events, by counter name."""
        if not self._counters:
            return {}
        files = [f for f in self._result_files(part) if f.exists()]
        found = pl.concat([pl.read_parquet(f) for f in files]).sort("event")
        assert found.height == self._events[part], "every event has its counters"
        return {c.name: (found[f"{c.name}_n"].to_numpy(), found[f"{c.name}_p"].to_numpy()) for c in self._counters}

    def _by_item(self, source: int, target: int) -> Path:
        return self._folder / f"by-item-{source:05d}-{target:05d}.parquet"

    def _result_files(self, part: int) -> list[Path]:
        return [self._folder / f"counted-{part:05d}-{target:05d}.parquet" for target in range(len(self._parts))]

    def _scatter(self) -> None:
        labels = sorted({c.label for c in self._counters})
        wanted = ["item_id", "time", "request_time", "impression", *(f"label_{name}" for name in labels)]
        for source, path in enumerate(self._parts):
            events = pl.read_parquet(path, columns=wanted).join(
                self._items, on="item_id", how="left", maintain_order="left"
            )
            slim = events.select("item", "time", "request_time", pl.int_range(pl.len(), dtype=pl.Int64).alias("event"))
            slim = slim.with_columns(pl.Series(name, labels_of(events, name)) for name in labels)
            for target in range(len(self._parts)):
                chosen = slim.filter(pl.col("item") % len(self._parts) == target)
                chosen.write_parquet(self._by_item(source, target), compression="lz4")

    def _count(self, target: int) -> None:
        sources = [self._by_item(s, target) for s in range(len(self._parts))]
        frames = [pl.read_parquet(f).with_columns(pl.lit(s).alias("part")) for s, f in enumerate(sources)]
        events = pl.concat(frames)
        owner = events["item"].to_numpy().astype(np.int64)
        result = events.select("part", "event")
        for c in self._counters:
            count, positives = _run(c, events, owner, self._schema)
            result = result.with_columns(pl.Series(f"{c.name}_n", count), pl.Series(f"{c.name}_p", positives))
        for (part,), rows in result.partition_by("part", as_dict=True).items():
            rows.drop("part").write_parquet(self._result_files(int(part))[target], compression="lz4")
        for file in sources:
            file.unlink()
