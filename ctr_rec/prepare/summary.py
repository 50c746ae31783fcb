"""What `prepare` prints when it is done: one table a reader can judge a log by."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ctr_rec.schema.manifest import SPLITS, LogManifest


def print_summary(manifest: LogManifest, console: Console, aucs: Mapping[str, Mapping[str, float]]) -> None:
    """Rows, users, items, density, positives per split, dates, the action delay, table sizes, strongest features.

    aucs: single-feature validation AUC by label and feature.
    """
    schema = manifest.data_schema
    console.print(_overview(manifest))
    splits = Table(title="splits by request time")
    for header in ("split", "to", "impressions", *(f"{name} (share)" for name in schema.labels)):
        splits.add_column(header, justify="left" if header in ("split", "to") else "right")
    last = manifest.split.test_end or manifest.time_range[1]
    ends = (manifest.split.train_end, manifest.split.valid_end or last, last)
    if manifest.split.train_start is not None:
        nothing = [""] * len(schema.labels)
        splits.add_row("history only", _date(manifest.split.train_start, manifest), "", *nothing)
    for k, (name, end) in enumerate(zip(SPLITS, ends, strict=True)):
        shown = manifest.impressions[k]
        shares = [f"{p[k]:,} ({p[k] / max(shown, 1):.4f})" for p in manifest.positives.values()]
        splits.add_row(name, _date(end, manifest), f"{shown:,}", *shares)
    console.print(splits)
    tables = Table(title="tables, counted up to the end of the training range")
    for header in ("table", "rows", "ids", "out of vocabulary", "read by"):
        tables.add_column(header, justify="right" if header in ("rows", "ids", "out of vocabulary") else "left")
    for name, info in manifest.tables.items():
        readers = ", ".join(f"{f.side.value}.{f.name}" for f in schema.features if f.table == name)
        tables.add_row(name, f"{info.rows:,}", f"{info.ids:,}", f"{info.out_of_vocabulary_share:.2%}", readers)
    console.print(tables)
    for label, values in aucs.items():
        best = sorted(values.items(), key=lambda pair: -pair[1])[:3]
        if best:
            told = ", ".join(f"{name} {value:.3f}" for name, value in best)
            console.print(f"strongest single features for {label!r}, validation AUC: {told}")
    for note in manifest.notes:
        console.print(f"[bold yellow]warning[/]: {escape(note)}", highlight=False)


def _overview(manifest: LogManifest) -> Table:
    table = Table(title=f"log {manifest.data_schema.name}", show_header=False)
    unit = manifest.data_schema.time_unit
    rows = {
        "events": f"{manifest.events:,}",
        "impressions": f"{sum(manifest.impressions):,}",
        "users": f"{manifest.users:,}",
        "items": f"{manifest.items:,}",
        "density": f"{manifest.events / max(manifest.users * manifest.items, 1):.4%} of user-item pairs",
        "events per user": f"{manifest.events / max(manifest.users, 1):.1f}",
        "time": f"{_date(manifest.time_range[0], manifest)} to {_date(manifest.time_range[1], manifest)}",
        "action delay": f"{manifest.data_schema.action_delay} {unit} (an action is known this long after its event)",
        "row groups": f"{len(manifest.row_groups)}",
        "fingerprint": manifest.fingerprint[:16],
    }
    if manifest.content is not None:
        content = manifest.content
        made = f", made by {content.info.model}" if content.info is not None else ""
        rows["content"] = f"{content.file.name}{made}, of {content.covered:,} of {content.items:,} items"
    for key, value in rows.items():
        table.add_row(key, value)
    return table


def _date(time: int, manifest: LogManifest) -> str:
    """The time as a date in UTC beside the log's own number; the number alone where no calendar has it."""
    try:
        moment = datetime.fromtimestamp(time / manifest.data_schema.ticks_per_second, tz=timezone.utc)
    except (OverflowError, ValueError, OSError):
        return str(time)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC ({time})"
