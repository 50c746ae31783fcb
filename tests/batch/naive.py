"""The reader's answer, worked out one impression at a time from the stored rows: slow, and plain enough to trust."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ctr_rec.batch.batch import Batch, Jagged
from ctr_rec.batch.config import Channel
from ctr_rec.schema.manifest import LogManifest


@dataclass(frozen=True)
class Truth:
    """One impression: its stored event, its user's, and what it may see, oldest first."""

    event: dict[str, Any]
    user: dict[str, Any]
    visible: list[dict[str, Any]]


def truths(folder: Path, manifest: LogManifest, split: str) -> dict[int, Truth]:
    """Impression id -> truth, for one split."""
    schema, ends = manifest.data_schema, manifest.split
    low = {"train": -(10**18), "valid": ends.train_end, "test": ends.valid_end}[split]
    high = {"train": ends.train_end, "valid": ends.valid_end, "test": 10**18}[split]
    found: dict[int, Truth] = {}
    number = 0
    for path in sorted((folder / "events").glob("*.parquet")):
        profiles = pq.read_table(folder / "users" / path.name).to_pylist()
        for row, profile in zip(pq.read_table(path).to_pylist(), profiles, strict=True):
            names = [name for name in row if name != "user"]
            events = [{name: row[name][i] for name in names} for i in range(len(row["time"]))]
            for event in events:
                event["known_at"] = event["time"] + schema.action_delay
                event["id"] = number
                number += 1
            for event in events:
                if event["impression"] and low < event["request_time"] <= high:
                    visible = [e for e in events if e["known_at"] < event["request_time"]]
                    found[event["id"]] = Truth(event, {**profile, "user": row["user"]}, visible)
    return found


def of_channel(truth: Truth, channel: Channel) -> list[dict[str, Any]]:
    """The last events of a channel that the impression sees."""
    return [e for e in truth.visible if channel.actions is None or e["action"] in channel.actions][-channel.last :]


def dwell(batch: Batch) -> np.ndarray:
    """Which stored event each event of the batch is: `dwell` as written, from its standardised form."""
    return np.round(batch.events.numbers["dwell"].numpy().astype(np.float64) * 2.0 + 0.5)


def rows(jagged: Jagged) -> list[list[int]]:
    """A jagged tensor as lists."""
    values, offsets = jagged.values.tolist(), jagged.offsets.tolist()
    return [values[a:b] for a, b in itertools.pairwise(offsets)]


def ids(batches: Iterable[Batch]) -> list[int]:
    """Impressions in the order they come, stand-ins left out."""
    return [i for b in batches for i in b.impression_id.tolist() if i >= 0]


def same(a: Batch, b: Batch) -> bool:
    """Equal to the bit, in every tensor and number."""
    return _leaves(a) == _leaves(b)


def _leaves(value: Any, path: str = "") -> list[Any]:
    if hasattr(value, "numpy"):
        return [(path, str(value.dtype), tuple(value.shape), value.numpy().tobytes())]
    if isinstance(value, dict):
        return [leaf for k, v in value.items() for leaf in _leaves(v, f"{path}.{k}")]
    if hasattr(value, "__dataclass_fields__"):
        return [leaf for k in value.__dataclass_fields__ for leaf in _leaves(getattr(value, k), f"{path}.{k}")]
    return [(path, value)]
