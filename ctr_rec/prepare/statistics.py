"""What is counted before anything can be encoded: vocabularies, items, number statistics, priors of the counters.

All of it is counted up to the end of the training range, history before its start included.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from ctr_rec.prepare.vocabulary import Counts
from ctr_rec.schema.log import Feature, Kind, LogSchema, Side
from ctr_rec.schema.manifest import NumberInfo


class Moments:
    """Weighted mean and variance, merged part by part (Chan, Golub and LeVeque 1979)."""

    def __init__(self) -> None:
        self.weight, self.mean, self._m2 = 0.0, 0.0, 0.0

    def add(self, values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> None:
        weight = float(weights.sum())
        if weight == 0:
            return
        mean = float((values * weights).sum() / weight)
        m2 = float((weights * (values - mean) ** 2).sum())
        delta, total = mean - self.mean, self.weight + weight
        self._m2 += m2 + delta * delta * self.weight * weight / total
        self.mean += delta * weight / total
        self.weight = total

    def info(self) -> NumberInfo:
        """A number that never varies in the training range gets deviation 1, so that it can be divided by."""
        variance = self._m2 / self.weight if self.weight else 0.0
        return NumberInfo(mean=self.mean, std=float(np.sqrt(variance)) if variance > 1e-12 else 1.0)


class Statistics:
    """Everything that is counted over the training range, one partition at a time."""

    def __init__(self, schema: LogSchema, priors: Mapping[str, float] | None = None) -> None:
        """priors: of labels whose mean is given, by a log that this one grows from."""
        self.schema = schema
        self._given = dict(priors or {})
        self.counts = {v.table: Counts() for v in schema.vocabularies}
        self.moments = {f.name: Moments() for f in schema.features if f.kind is Kind.NUMBER}
        self.labelled = {name: [0, 0] for name in schema.labels}  # training impressions, positives
        self.impressions = [0, 0, 0]
        self.first_time, self.last_time = 2**63 - 1, -(2**63)
        self.first_request: list[int] = []  # per partition: requests of all partitions before it
        self.events_of_part: list[int] = []
        self._requests = 0
        self._items: pl.DataFrame | None = None

    def add_events(self, events: pl.DataFrame) -> None:
        """events: arranged, with `split` (0 is the training range, -1 the history before it)."""
        self.first_request.append(self._requests)
        self.events_of_part.append(events.height)
        if events.height == 0:
            return
        self._requests += int(events["request"].max()) + 1  # pyright: ignore[reportArgumentType]
        self.first_time = min(self.first_time, int(events["time"].min()))  # pyright: ignore[reportArgumentType]
        self.last_time = max(self.last_time, int(events["time"].max()))  # pyright: ignore[reportArgumentType]
        shown = events.filter(pl.col("impression") & (pl.col("split") >= 0))
        for split, count in shown.group_by("split").len().iter_rows():
            self.impressions[split] += count
        train = (events["split"] <= 0).cast(pl.Int64)
        self._features(events, self.schema.of(Side.EVENT), train)
        items = events.select("item_id", "time", pl.Series("count", train)).group_by("item_id")
        new = items.agg(pl.col("time").min().alias("first_time"), pl.col("count").sum())
        if self._items is not None:
            new = (
                pl.concat([self._items, new]).group_by("item_id").agg(pl.col("first_time").min(), pl.col("count").sum())
            )
        self._items = new
        for name, totals in self.labelled.items():
            labels = events.filter((pl.col("split") <= 0) & pl.col("impression"))[f"label_{name}"]
            totals[0] += len(labels)
            totals[1] += int(labels.sum())

    def add_side(self, frame: pl.DataFrame, side: Side, weights: pl.Series) -> None:
        """Users or items, each weighted by the training-range events that name it."""
        self._features(frame, self.schema.of(side), weights)

    def items(self) -> pl.DataFrame:
        """Columns item_id, first_time, count (training occurrences), sorted by item id: the row is the item number."""
        assert self._items is not None
        return self._items.sort("item_id")

    def prior(self, label: str) -> float:
        """Mean of the label over the impressions up to the end of the training range, unless it was given."""
        if label in self._given:
            return self._given[label]
        total, positive = self.labelled[label]
        return positive / total if total else 0.0

    def _features(self, frame: pl.DataFrame, features: list[Feature], weights: pl.Series) -> None:
        for f in features:
            if f.kind is Kind.CATEGORY:
                assert f.table is not None
                self.counts[f.table].add(frame[f.name], weights)
            elif f.kind is Kind.CATEGORIES:
                assert f.table is not None
                parts = frame.select(f.name, weights.alias("_weight")).explode(f.name).drop_nulls(f.name)
                self.counts[f.table].add(parts[f.name], parts["_weight"])
            elif f.kind is Kind.NUMBER:
                there = frame[f.name].is_not_null()
                numbers, of = frame[f.name].filter(there), weights.filter(there)
                self.moments[f.name].add(transformed(numbers, f), of.to_numpy().astype(np.float64))


def transformed(values: pl.Series, f: Feature) -> npt.NDArray[np.float64]:
    """The number as it will be standardised: log1p first where the feature asks for it."""
    numbers = values.to_numpy().astype(np.float64)
    return np.log1p(numbers) if f.log1p else numbers
