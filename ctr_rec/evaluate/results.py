"""What scoring leaves in a run folder, whoever scored: predictions, metrics by slice, and a count of test scorings.

predictions/<split>.parquet   a row per impression, raw ids included
metrics/<split>.json          all metrics, overall and by slice, and what they rest on
<split>-history-<events>      names both where impressions were given their newest events alone
test-scored.json              how often and when the test range was scored: each time spends some of its worth
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ctr_rec.errors import DataError
from ctr_rec.evaluate.identity import new_users, raw_ids
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.evaluate.slices import Slicing, by_known_user, standard_slices
from ctr_rec.files import write_json
from ctr_rec.metrics.mergeable import COUNT_KEYS, MetricDict, all_metrics, undefined_reasons
from ctr_rec.schema.manifest import LogManifest

TEST_SCORED = "test-scored.json"
_ON_TERMINAL = ("history length", "item", "user")


@dataclass(frozen=True)
class Results:
    """One scored split. facts: what was scored with what (checkpoint, log, cost, ...), plain data.

    history: newest visible events that each impression was given; None: as the run says.
    """

    split: str
    metrics: MetricDict
    slices: tuple[Slicing, ...]
    facts: dict[str, Any]
    history: int | None = None

    @property
    def name(self) -> str:
        """Of its files: a cut scoring never takes the place of the whole one."""
        return self.split if self.history is None else f"{self.split}-history-{self.history}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data; a metric that is undefined is null, and `undefined` says why."""
        return {
            "split": self.split,
            **({} if self.history is None else {"history": self.history}),
            **self.facts,
            "metrics": _numbers(self.metrics),
            "undefined": undefined_reasons(self.metrics),
            "slices": [{"by": s.by, "buckets": [_bucket(b) for b in s.buckets]} for s in self.slices],
        }

    def print(self, console: Console) -> None:
        """The overall metrics and the slices that matter most, 80 columns wide at most."""
        table = Table(title=f"{self.name}: {self.metrics['impressions']:,} impressions", box=SIMPLE_HEAD, padding=0)
        table.add_column("metric")
        table.add_column("value", justify="right")
        reasons = undefined_reasons(self.metrics)
        for key, value in _numbers(self.metrics).items():
            shown = f"{value:,}" if key in COUNT_KEYS else "undefined" if value is None else f"{value:.5f}"
            table.add_row(key, f"{shown} ({reasons[key]})" if key in reasons else shown)
        console.print(table)
        for found in self.slices:
            if found.by in _ON_TERMINAL:
                console.print(found.table())


def measure(
    split: str,
    predictions: Predictions,
    log: str,
    manifest: LogManifest,
    facts: dict[str, Any],
    history: int | None = None,
    since: int | None = None,
) -> Results:
    """Metrics of predictions, overall and by slice.

    history: see Results. since: users whose first event is later are new; None: train_end.

    Raises:
        DataError: no predictions, or NaN logits (the model diverged).
    """
    if not len(predictions):
        raise DataError(f"expected at least one impression in split {split!r} of {log}, got none; choose other ends")
    metrics = all_metrics(predictions.label, predictions.logit, predictions.user)
    slices = [*standard_slices(predictions), by_known_user(predictions, new_users(log, manifest, since))]
    stamp = {"scored_at": now(), "log": log, "data_fingerprint": manifest.fingerprint}
    return Results(split, metrics, tuple(slices), {**stamp, **facts}, history)


def save(run_dir: Path, results: Results, predictions: Predictions, log: str, manifest: LogManifest) -> None:
    """Writes predictions and metrics, each whole or not at all."""
    path = run_dir / "predictions" / f"{results.name}.parquet"
    predictions.save(path, raw_ids(log, manifest, predictions))
    (run_dir / "metrics").mkdir(exist_ok=True)
    write_json(run_dir / "metrics" / f"{results.name}.json", results.to_dict())


def count_test_scoring(run_dir: Path, by: str) -> int:
    """Adds one to the run's count of test scorings; returns the count. by: what scored, for the list."""
    path = run_dir / TEST_SCORED
    scored = [*read_test_scorings(run_dir), {"at": now(), "by": by}]
    write_json(path, {"times": len(scored), "scored": scored})
    return len(scored)


def read_test_scorings(run_dir: Path) -> list[dict[str, str]]:
    """When the test range was scored, and by what. Raises DataError when the count was damaged."""
    path = run_dir / TEST_SCORED
    if not path.is_file():
        return []
    try:
        return list(json.loads(path.read_text())["scored"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: expected the list of test scorings, got something else ({error}); restore or remove it"
        ) from error


def now() -> str:
    """The present second, UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _bucket(bucket: Any) -> dict[str, Any]:
    return {
        "name": bucket.name,
        "impressions": bucket.impressions,
        "users": bucket.users,
        "share": bucket.share,
        "metrics": _numbers(bucket.metrics),
    }


def _numbers(metrics: MetricDict) -> dict[str, float | int | None]:
    return {
        key: int(value) if key in COUNT_KEYS else float(value) if math.isfinite(value) else None
        for key, value in metrics.items()
    }
