"""A log that grows from an older one: every id keeps its row, so that what was trained stays what it stands for.

Kept from the old log: the row of every id, the mean and deviation of every number, and the priors that the counters'
rates are smoothed with. New: ids that are frequent enough and had no row of their own (unknown before, or rarer than
`min_count`) get the rows behind the last one, by falling count, ties by the id's text. Counts are of the new raw
log, which brings the whole history. Scales are kept rather than counted again because dense weights are trained for
them: a number that drifts shows as larger standardised values, not as another meaning of the same value. Tables with
`hash_rows` have no vocabulary and stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ctr_rec.errors import DataError, SchemaError
from ctr_rec.files import local_file
from ctr_rec.prepare.vocabulary import vocabulary_path
from ctr_rec.schema.log import Feature, LogSchema, Split
from ctr_rec.schema.manifest import LogManifest, load_manifest

# What a stored value of a feature means; `known` and `side` also decide which inputs of a model it becomes.
MEANING = ("kind", "side", "table", "known", "log1p", "dim")


@dataclass(frozen=True)
class OldLog:
    """The log that a new one grows from; `open_old` makes it."""

    folder: Path
    manifest: LogManifest

    def chain(self) -> tuple[str, ...]:
        """Fingerprints for the new log's `grown_from`, newest first."""
        return (self.manifest.fingerprint, *self.manifest.grown_from)

    def rows(self, table: str) -> pl.DataFrame | None:
        """(id, row) of the ids with a row of their own; None for a table that the old log lacks, or with `hash_rows`.

        Raises:
            DataError: the file is missing, or its rows are not 1, 2, ... up to the manifest's number.
        """
        known = {v.table: v for v in self.manifest.data_schema.vocabularies}
        if table not in known or known[table].hash_rows is not None:
            return None
        path = vocabulary_path(self.folder, table)
        frame = pl.read_parquet(local_file(path), columns=["id", "row"]).filter(pl.col("row") > 0)
        expected = self.manifest.tables[table].rows - 1
        if not np.array_equal(np.sort(frame["row"].to_numpy()), np.arange(1, expected + 1)):
            raise DataError(
                f"{path}: expected each of the rows 1 to {expected} once, as {self.folder}/manifest.json says, got "
                f"{frame.height} rows; copy the old log again"
            )
        return frame.with_columns(pl.col("row").cast(pl.Int32))

    def priors(self) -> dict[str, float]:
        """Mean label that the counters' rates were smoothed with; logs from before it was stored have it as a ratio."""
        found, shown = {}, self.manifest.impressions[0]
        for label, positives in self.manifest.positives.items():
            found[label] = self.manifest.priors.get(label, positives[0] / shown if shown else 0.0)
        return found

    def notes(self, split: Split) -> Iterator[str]:
        """What is odd about a training range that follows the old one."""
        end, start = self.manifest.split.train_end, split.train_start
        if start is None or start < end:
            yield (
                f"training begins {'with the log' if start is None else f'at {start}'}, before the end {end} of the "
                f"training range of {self.folder}: a run that goes on from there trains on the same impressions again "
                f"(begin with --split {end}..)"
            )
        elif start > end:
            yield (
                f"training begins at {start}, the training range of {self.folder} ends at {end}: a run that goes on "
                "from there never trains on what lies between"
            )


def open_old(folder: Path, schema: LogSchema) -> OldLog:
    """The old log, checked against the schema of the new one.

    Raises:
        DataError: no prepared log. SchemaError: it contradicts the schema; names each table and feature.
    """
    old = OldLog(folder, load_manifest(folder))
    found = list(_contradictions(old.manifest.data_schema, schema))
    if found:
        raise SchemaError(
            f"--grow {folder}: the schema {schema.name!r} contradicts this log: {'; '.join(found)}; rows and inputs "
            "would mean something else: restore the schema, or prepare without --grow and start a new run"
        )
    return old


def _contradictions(old: LogSchema, new: LogSchema) -> Iterator[str]:
    tables = {v.table: v for v in new.vocabularies}
    for v in old.vocabularies:
        if v.table not in tables:
            yield f"table {v.table!r} is gone"
        elif tables[v.table].hash_rows != v.hash_rows:
            yield f"table {v.table!r} had hash_rows {v.hash_rows}, has {tables[v.table].hash_rows}"
    features = {f.name: f for f in new.features}
    for f in old.features:
        if f.name in features:
            yield from _differences(f, features[f.name])
        else:
            yield f"feature {f.name!r} is gone"
    if new.actions[: len(old.actions)] != old.actions:
        yield f"actions were {', '.join(old.actions)}, are {', '.join(new.actions)} (new ones go last)"
    if new.time_unit != old.time_unit:
        yield f"time_unit was {old.time_unit}, is {new.time_unit}"
    if new.action_delay != old.action_delay:
        yield f"action_delay was {old.action_delay}, is {new.action_delay}"


def _differences(old: Feature, new: Feature) -> Iterator[str]:
    before, now = old.model_dump(mode="json"), new.model_dump(mode="json")
    for name in MEANING:
        if before[name] != now[name]:
            yield f"feature {old.name!r} had {name} {before[name]}, has {now[name]}"
