"""What a run says and keeps when it goes on with more than its checkpoint had."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ctr_rec.checkpoint.grow import Growth
from ctr_rec.files import write_atomically, write_json
from ctr_rec.schema.manifest import LogManifest
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.run import Run

GROWTH = "growth.jsonl"


def settle_growth(folder: RunFolder, growth: Growth, run: Run, log: LogManifest) -> None:
    """After the load: the folder takes the run's config; what is new is printed and kept. Call on one rank."""
    if growth.is_any:
        _record(folder.path, growth, run, log)
        # In a terminal as wide as it is; a log file has no width, and a table cut at 80 columns says less.
        Console(stderr=True, width=None if sys.stderr.isatty() else 120).print(_table(growth))
    folder.settle(run)


def _record(folder: Path, growth: Growth, run: Run, log: LogManifest) -> None:
    """A run that was killed before its first checkpoint grows again at the same step: the newer line replaces it."""
    before = growth.since
    line = {
        "step": before.step,
        "log": run.data.log,
        "fingerprint": log.fingerprint,
        "grown_from": before.data_fingerprint,
        "tables": {name: {"old_rows": old, "new_rows": new} for name, (old, new) in growth.tables.items()},
        "inputs": list(growth.inputs),
    }
    kept = [known for known in read_growth(folder) if known["step"] < before.step]
    write_atomically(folder / GROWTH, "".join(json.dumps(known) + "\n" for known in [*kept, line]))
    write_json(folder / f"config-before-step-{before.step}.json", before.config)


def read_growth(folder: Path) -> list[dict[str, Any]]:
    """The lines of growth.jsonl, oldest first; none where the run never grew."""
    path = folder / GROWTH
    return [json.loads(text) for text in path.read_text().splitlines()] if path.is_file() else []


def _table(growth: Growth) -> Table:
    inputs = f"; new inputs: {', '.join(growth.inputs)}" if growth.inputs else ""
    table = Table(
        title=f"grown at step {growth.since.step}", caption=f"{'new log' if growth.new_log else 'same log'}{inputs}"
    )
    for header in ("table", "old rows", "new rows", "new ids"):
        table.add_column(header, justify="left" if header == "table" else "right")
    for name, (old, new) in growth.tables.items():
        # Row 0 of a new table stands for no id.
        table.add_row(name, f"{old:,}" if old else "none", f"{new:,}", f"{new - max(old, 1):,}")
    return table
