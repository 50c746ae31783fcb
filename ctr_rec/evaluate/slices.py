"""Metrics by slice: where a model is good. A slice is a bucket of impressions with the same metrics and its count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ctr_rec.errors import ConfigError, DataError
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.metrics.mergeable import MetricDict, all_metrics

HISTORY_EDGES = (0, 1, 5, 10, 20, 50, 100, 200, 500, 1000)
ACTIVITY_EDGES = (1, 2, 5, 10, 20, 50, 100, 500)
_SHOWN = ("auc", "gauc", "logloss", "ne", "calibration")


@dataclass(frozen=True)
class Bucket:
    """One bucket: its name, how many impressions and users fell in it, their share of all impressions, the metrics.

    GAUC inside a bucket orders only the user's impressions that fell in that bucket.
    """

    name: str
    impressions: int
    users: int
    share: float
    metrics: MetricDict


@dataclass(frozen=True)
class Slicing:
    """What the impressions were cut by, and the buckets in order; buckets without impressions are left out."""

    by: str
    buckets: tuple[Bucket, ...]

    def table(self) -> Table:
        """A rich table, a row per bucket, 80 columns wide at most."""
        table = Table(title=f"by {self.by}", box=SIMPLE_HEAD, padding=0)
        for heading in ("", "impressions", "users", *_SHOWN):
            table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
        for bucket in self.buckets:
            metrics = (f"{bucket.metrics[key]:.5f}" for key in _SHOWN)
            table.add_row(bucket.name, f"{bucket.impressions:,}", f"{bucket.users:,}", *metrics)
        return table


def standard_slices(predictions: Predictions) -> list[Slicing]:
    """What a report shows: by history length, by new or known item, by how often the user is scored, and by time."""
    return [
        by_history_length(predictions),
        by_new_item(predictions),
        by_user_activity(predictions),
        by_time(predictions),
    ]


def by_history_length(predictions: Predictions, edges: Sequence[int] = HISTORY_EDGES) -> Slicing:
    """By the number of events visible to the impression before any cut. Bucket i is [edges[i], edges[i + 1]).

    Raises:
        ConfigError: edges that do not ascend. DataError: a length below the first edge (its row is named).
    """
    codes, names = edge_buckets(predictions.history_length, edges, "history length")
    return slice_by(predictions, "history length", codes, names)


def by_new_item(predictions: Predictions) -> Slicing:
    """Items that first appear after the training range, against those that training has seen."""
    return slice_by(predictions, "item", predictions.item_is_new.astype(np.int64), ("in training", "new"))


def by_user_activity(predictions: Predictions, edges: Sequence[int] = ACTIVITY_EDGES) -> Slicing:
    """By the number of this user's impressions among the predictions."""
    _, user, counts = np.unique(predictions.user, return_inverse=True, return_counts=True)
    codes, names = edge_buckets(counts[user], edges, "impressions of the user")
    return slice_by(predictions, "impressions of the user", codes, names)


def by_known_user(predictions: Predictions, user_is_new: npt.NDArray[np.bool_]) -> Slicing:
    """Users without an event in the training range, against the others.

    Args:
        user_is_new: bool by user number of the prepared log.

    Raises:
        DataError: a user number beyond the array.
    """
    highest = int(predictions.user.max(initial=-1))
    if highest >= len(user_is_new):
        got = f"user number {highest}; pass the array of the log that was scored"
        raise DataError(f"slices: expected users below {len(user_is_new)}, got {got}")
    return slice_by(predictions, "user", user_is_new[predictions.user].astype(np.int64), ("in training", "new"))


def by_time(predictions: Predictions, num_buckets: int = 5) -> Slicing:
    """By request time, in parts of nearly equal size, earliest first: does the model age? One request is never parted.

    Raises:
        ConfigError: fewer than one bucket.
    """
    if num_buckets < 1:
        raise ConfigError(f"slices: expected at least 1 part of time, got {num_buckets}; 5 is usual")
    earlier = np.searchsorted(np.sort(predictions.request_time), predictions.request_time, side="left")
    codes = earlier * num_buckets // max(len(predictions), 1)
    names = tuple(f"part {part + 1} of {num_buckets}" for part in range(num_buckets))
    return slice_by(predictions, "request time", codes, names)


def edge_buckets(
    values: npt.NDArray[np.int64], edges: Sequence[int], what: str
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Bucket of each value [N] and the buckets' names: "0", "1-4", ..., "1000+" for edges 0, 1, 5, ..., 1000.

    Raises:
        ConfigError: edges that do not ascend. DataError: a value below the first edge (its row is named).
    """
    if not len(edges) or any(low >= high for low, high in pairwise(edges)):
        raise ConfigError(f"{what}: expected ascending bucket edges, got {list(edges)}; write them from low to high")
    below = np.flatnonzero(values < edges[0])
    if len(below):
        row = int(below[0])
        raise DataError(f"{what}: expected at least {edges[0]}, got {values[row]} at row {row}; lower the first edge")
    codes = np.searchsorted(np.asarray(edges), values, side="right") - 1
    inner = (str(low) if high == low + 1 else f"{low}-{high - 1}" for low, high in pairwise(edges))
    return codes.astype(np.int64), (*inner, f"{edges[-1]}+")


def slice_by(predictions: Predictions, by: str, codes: npt.NDArray[np.int64], names: Sequence[str]) -> Slicing:
    """The metrics of every bucket.

    Args:
        predictions: N impressions.
        by: what the buckets are called as a whole.
        codes: [N] bucket of each impression, in [0, len(names)).
        names: of the buckets, in the order they are to be shown.

    Raises:
        DataError: another number of codes than impressions, or a code without a name (its row is named); NaN logits.
    """
    if len(codes) != len(predictions):
        raise DataError(f"{by}: expected {len(predictions)} bucket codes, got {len(codes)}; pass one per impression")
    outside = np.flatnonzero((codes < 0) | (codes >= len(names)))
    if len(outside):
        row = int(outside[0])
        raise DataError(f"{by}: expected codes below {len(names)}, got {codes[row]} at row {row}; name every bucket")
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(names) + 1))
    buckets = [
        _bucket(predictions, order[start:end], name)
        for name, start, end in zip(names, bounds[:-1], bounds[1:], strict=True)
        if end > start
    ]
    return Slicing(by, tuple(buckets))


def _bucket(predictions: Predictions, rows: npt.NDArray[np.int64], name: str) -> Bucket:
    metrics = all_metrics(predictions.label[rows], predictions.logit[rows], predictions.user[rows])
    users = int(metrics["groups_total"])
    return Bucket(name, len(rows), users, len(rows) / len(predictions), metrics)
