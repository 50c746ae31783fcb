"""What `ctr-rec bench` measures. A bench is a file of this folder with `run(emit, log)`; its name is the file's."""

from __future__ import annotations

import ast
import difflib
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ctr_rec.errors import ConfigError

if TYPE_CHECKING:
    from ctr_rec.bench.record import Record

FOLDER = Path(__file__).parent
WIDTH_OF_A_FILE = 180


def listing() -> dict[str, str]:
    """Name and first sentence of every bench, read from the files without importing them (most load torch)."""
    found = {}
    for path in sorted(FOLDER.glob("[!_]*.py")):
        tree = ast.parse(path.read_text())
        if any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def run(name: str, as_json: bool, log: Path | None) -> list[Record]:
    """Runs one bench and prints its records: JSON lines as they come, or a line each and a table at the end.

    log: a prepared log to measure on, where the bench can use one.

    Raises:
        ConfigError: there is no bench of this name (lists the nearest ones), or `log` is none.
    """
    known = listing()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        raise ConfigError(f"there is no bench {name!r}; there are: {', '.join(near or known)}")
    if log is not None and not (log / "manifest.json").is_file():
        raise ConfigError(f"--log {log} is not a prepared log, it has no manifest.json; write it with ctr-rec prepare")
    from ctr_rec.bench.record import emit_to

    records: list[Record] = []

    def receive(record: Record) -> None:
        records.append(record)
        print(record.to_json() if as_json else _line(record), flush=True)

    importlib.import_module(f"{__name__}.{name}").run(emit_to(receive), log)
    if not as_json:
        _print_table(records)
    return records


def _line(record: Record) -> str:
    return f"{record.bench} | {record.case} | {record.metric} = {record.value:.5g} {record.unit}"


def _print_table(records: list[Record]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("case", "metric", title=records[0].bench if records else "nothing measured")
    for column in ("value", "range", "baseline", "ratio", "goal"):
        table.add_column(column, justify="right")
    for r in records:
        spread = "" if r.min is None or r.max is None else f"{r.min:.4g} to {r.max:.4g}"
        met = {None: "", True: " met", False: " NOT MET"}[r.goal_met()]
        ratio = "" if r.ratio is None else f"{r.ratio:.2f}"
        baseline = "" if r.baseline is None else f"{r.baseline:.4g}"
        goal = "" if r.goal is None else r.goal + met
        table.add_row(r.case, r.metric, f"{r.value:.4g} {r.unit}", spread, baseline, ratio, goal)
    # A file or a pipe has no width; the default of 80 columns would break every cell.
    Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_FILE).print(table)
