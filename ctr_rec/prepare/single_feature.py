"""A candidate feature that predicts the label all by itself is nearly always a leak; this finds and names it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ctr_rec.files import join_path, local_file
from ctr_rec.metrics.ranking import auc
from ctr_rec.prepare.check import row_groups
from ctr_rec.prepare.write import flat
from ctr_rec.schema.log import Feature, Kind, Known, LogSchema, Side
from ctr_rec.schema.manifest import LogManifest

SUSPICIOUS_AUC = 0.9
PRIOR_WEIGHT = 20.0  # pseudo-impressions of the training mean in a category's mean
SAMPLED_IMPRESSIONS = 1_000_000  # of the validation range, from its beginning in file order
Float64 = npt.NDArray[np.float64]


@dataclass
class _Ids:
    """Running label sums per table row of one category feature over the training range."""

    shown: Float64
    positive: Float64


@dataclass
class _Scores:
    label: list[npt.NDArray[np.int8]] = field(default_factory=list)
    by_feature: dict[str, list[Float64]] = field(default_factory=dict)


def single_feature_aucs(log: str | Path, manifest: LogManifest, label: str) -> dict[str, float]:
    """Validation AUC of each candidate input alone, the larger of AUC and 1 - AUC, by input name.

    Numbers and counters are scores as they are; a category scores by its smoothed training mean of the label, a list
    of categories by the mean of theirs. A feature whose AUC is not defined is left out.
    """
    schema = manifest.data_schema
    inputs = _candidate_features(schema)
    items = _items(log)
    sums = {f.name: _zeros(manifest, f) for f in inputs if f.table is not None}
    prior = _prior(manifest, label)
    for impressions in _impressions(log, manifest, label, 0, items):
        for f in inputs:
            if f.table is not None:
                _add(sums[f.name], impressions.ids(f), impressions.label)
    means = {name: (s.positive + PRIOR_WEIGHT * prior) / (s.shown + PRIOR_WEIGHT) for name, s in sums.items()}
    scores, taken = _Scores(), 0
    for impressions in _impressions(log, manifest, label, 1, items):
        scores.label.append(impressions.label)
        for f in inputs:
            values = impressions.number(f) if f.table is None else _mean(impressions.ids(f), means[f.name], prior)
            scores.by_feature.setdefault(f.name, []).append(values)
        for c in schema.counters:
            for name in (f"{c.name}_count", f"{c.name}_rate"):
                scores.by_feature.setdefault(name, []).append(impressions.counter(name))
        taken += len(impressions.label)
        if taken >= SAMPLED_IMPRESSIONS:
            break
    truth = np.concatenate(scores.label) if scores.label else np.zeros(0, np.int8)
    found = {name: float(auc(truth, np.concatenate(parts))) for name, parts in scores.by_feature.items()}
    return {name: max(value, 1 - value) for name, value in found.items() if np.isfinite(value)}


def suspicious(aucs: dict[str, float], label: str) -> list[str]:
    """One sentence per feature above 0.9."""
    return [
        f"{name!r} alone reaches validation AUC {value:.3f} for label {label!r}: is it known before the action? If "
        "not, declare it Known.ACTION or remove it"
        for name, value in sorted(aucs.items(), key=lambda pair: -pair[1])
        if value > SUSPICIOUS_AUC
    ]


def _candidate_features(schema: LogSchema) -> list[Feature]:
    kinds = (Kind.NUMBER, Kind.CATEGORY, Kind.CATEGORIES)
    return [f for f in schema.features if f.kind in kinds and f.known is Known.REQUEST]


def _items(log: str | Path) -> pa.Table:
    return pq.read_table(local_file(join_path(log, "items/items.parquet")))


def _zeros(manifest: LogManifest, f: Feature) -> _Ids:
    rows = manifest.tables[f.table or ""].rows
    return _Ids(np.zeros(rows), np.zeros(rows))


def _prior(manifest: LogManifest, label: str) -> float:
    return manifest.positives[label][0] / max(manifest.impressions[0], 1)


@dataclass
class _Impressions:
    """Impressions of one row group and split, as positions of its events."""

    events: pa.Table
    users: pa.Table
    items: pa.Table
    chosen: npt.NDArray[np.int64]
    label: npt.NDArray[np.int8]

    def ids(self, f: Feature) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Table rows and lengths, one length per impression."""
        column = self._column(f)
        if f.kind is Kind.CATEGORIES:
            lengths = column.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
            return column.flatten().to_numpy(zero_copy_only=False), lengths
        return column.to_numpy(zero_copy_only=False), np.ones(len(column), np.int64)

    def number(self, f: Feature) -> Float64:
        """Absent ones are the mean of the others, as they are to a model."""
        found = self._column(f).to_numpy(zero_copy_only=False).astype(np.float64)
        absent = np.isnan(found)
        return np.where(absent, found[~absent].mean() if not absent.all() else 0.0, found) if absent.any() else found

    def counter(self, name: str) -> Float64:
        return flat(self.events, name)[self.chosen].astype(np.float64)

    def _column(self, f: Feature) -> pa.Array:
        if f.side is Side.ITEM:
            return self.items.column(f.name).combine_chunks().take(pa.array(flat(self.events, "item")[self.chosen]))
        if f.side is Side.EVENT:
            return self.events.column(f.name).combine_chunks().flatten().take(pa.array(self.chosen))
        lengths = self.events.column("time").combine_chunks().value_lengths().to_numpy(zero_copy_only=False)
        user = np.repeat(np.arange(len(lengths)), lengths)[self.chosen]
        return self.users.column(f.name).combine_chunks().take(pa.array(user))


def _impressions(
    log: str | Path, manifest: LogManifest, label: str, split: int, items: pa.Table
) -> Iterator[_Impressions]:
    for group, events, users in row_groups(log, manifest):
        if group.impressions[split] == 0:
            continue
        inside = manifest.split.holds(split, flat(events, "request_time"))
        chosen = np.flatnonzero(flat(events, "impression").astype(bool) & inside)
        yield _Impressions(events, users, items, chosen, flat(events, f"label_{label}")[chosen])


def _add(sums: _Ids, ids: tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]], label: npt.NDArray[np.int8]) -> None:
    rows, lengths = ids
    sums.shown += np.bincount(rows, minlength=len(sums.shown))
    sums.positive += np.bincount(rows, weights=np.repeat(label, lengths), minlength=len(sums.shown))


def _mean(ids: tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]], means: Float64, prior: float) -> Float64:
    rows, lengths = ids
    impression = np.repeat(np.arange(len(lengths)), lengths)
    total = np.bincount(impression, weights=means[rows], minlength=len(lengths))
    return np.where(lengths > 0, total / np.maximum(lengths, 1), prior)
