"""Says what a path is: a prepared log, a run folder or a checkpoint, and what is in it."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ctr_rec.config import from_json
from ctr_rec.errors import CheckpointError, ConfigError, DataError
from ctr_rec.files import AnyPath, place
from ctr_rec.schema.log import Known
from ctr_rec.schema.manifest import MANIFEST, SPLITS, LogManifest

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

CONFIG = "config.json"
INDEX = ".metadata"
UNFINISHED = re.compile(r"step-\d{8}")


def describe(
    path: str | Path, console: Console | None = None, check: bool = False, out: Path | None = None
) -> Literal["log", "run", "checkpoint"]:
    """Prints what `path` is and returns the word for it.

    Args:
        path: a local one, or one with a scheme, for checkpoints in a store.
        check: of a checkpoint, compare every file with the manifest's size and CRC-32.
        out: of a checkpoint, folder for a plot of its tables.

    Raises:
        ConfigError: it is none of them, or an option that does not fit it. DataError, CheckpointError: it is damaged.
    """
    from rich.console import Console

    where = place(path)
    kind, folder = _kind(where)
    if kind != "checkpoint" and (check or out is not None):
        option = "--check" if check else "--out"
        raise ConfigError(f"{option} is for checkpoints, and {path} is a {kind}; name a checkpoint, or leave it out")
    console = console or Console(highlight=False)
    for part in _parts(kind, folder, check, out):
        console.print(part, soft_wrap=isinstance(part, str), markup=False)
    return kind


def _parts(kind: str, folder: AnyPath, check: bool, out: Path | None) -> list[RenderableType]:
    if kind == "checkpoint":
        from ctr_rec.inspect.checkpoint import describe_checkpoint

        return describe_checkpoint(folder, check, out)
    assert isinstance(folder, Path)
    return _log(folder) if kind == "log" else _run(folder)


def _kind(path: AnyPath) -> tuple[Literal["log", "run", "checkpoint"], AnyPath]:
    if not path.exists():
        raise ConfigError(f"{path} does not exist (looked from {Path.cwd()})")
    folder = path.parent if path.name in (MANIFEST, CONFIG) else path
    if isinstance(folder, Path) and (folder / CONFIG).is_file():
        return "run", folder
    if (folder / MANIFEST).is_file():
        content = _json(folder / MANIFEST)
        if "data_schema" in content and isinstance(folder, Path):
            return "log", folder
        if "step" in content:
            return "checkpoint", folder
    if (folder / INDEX).is_file():
        if any(folder.glob("rank-*.npz")) or UNFINISHED.fullmatch(folder.name):
            raise CheckpointError(
                f"{folder} has checkpoint data but no {MANIFEST}: it was never finished; use an earlier checkpoint"
            )
        return "checkpoint", folder
    raise ConfigError(
        f"{path} is no prepared log ({MANIFEST}), run folder ({CONFIG}) or checkpoint ({MANIFEST}, or {INDEX} of "
        f"another job); it holds: {', '.join(sorted(p.name for p in folder.iterdir())[:8]) or 'nothing'}"
        if folder.is_dir()
        else f"{path} is a file; give the folder of a prepared log, a run or a checkpoint"
    )


def _json(path: AnyPath) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not JSON ({error}); it was cut short or written by something else") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, expected an object")
    return content


def _log(folder: Path) -> list[RenderableType]:
    manifest = from_json(LogManifest, (folder / MANIFEST).read_text(), str(folder / MANIFEST))
    schema = manifest.data_schema
    first, last = (_date(t, schema.ticks_per_second) for t in manifest.time_range)
    lines: list[RenderableType] = [
        f"{folder} is a prepared log: {schema.name}, {first} to {last}, fingerprint {manifest.fingerprint[:16]}",
        f"{manifest.users:,} users, {manifest.items:,} items, {manifest.events:,} events, "
        f"{sum(manifest.impressions):,} impressions, {len(manifest.row_groups):,} row groups",
    ]
    return [*lines, _splits(manifest), _features(manifest), *manifest.notes]


def _date(time: int, ticks_per_second: int) -> str:
    try:
        moment = datetime.datetime.fromtimestamp(time / ticks_per_second, datetime.timezone.utc)
    except (OverflowError, ValueError, OSError):
        return str(time)  # no calendar has it: the unit is wrong, or the log counts in steps of its own
    return moment.strftime("%Y-%m-%d %H:%M")


def _splits(manifest: LogManifest) -> RenderableType:
    from rich.table import Table

    table = Table("split", "impressions", *(f"{label} (share)" for label in manifest.positives))
    for i, split in enumerate(SPLITS):
        n = manifest.impressions[i]
        shares = [f"{p[i]:,} ({p[i] / n:.3f})" if n else "0" for p in manifest.positives.values()]
        table.add_row(split, f"{n:,}", *shares)
    return table


def _features(manifest: LogManifest) -> RenderableType:
    from rich.table import Table

    table = Table("feature", "kind", "of", "table", "rows", "out of vocabulary")
    for f in manifest.data_schema.features:
        info = manifest.tables.get(f.table or "")
        rows, missing = (f"{info.rows:,}", f"{info.out_of_vocabulary_share:.2%}") if info else ("", "")
        # What is known with the action only describes events of the history, never a candidate.
        of = f.side.value if f.known is Known.REQUEST else "history"
        table.add_row(f.name, f.kind.value, of, f.table or "", rows, missing)
    for c in manifest.data_schema.counters:
        table.add_row(c.name, "counter", c.by, "", "", "")
    return table


def _run(folder: Path) -> list[RenderableType]:
    config = _json(folder / CONFIG)
    tower = str(config.get("tower", {}).get("kind", "?")).rpartition(":")[2]
    lines: list[RenderableType] = [
        f"{folder} is a run: {config.get('name', '?')}, tower {tower}, log {config.get('data', {}).get('log', '?')}"
    ]
    lines.append(_state(folder))
    lines += _last_lines(folder / "metrics.jsonl")
    lines.append(_checkpoints(folder))
    predictions = sorted((folder / "predictions").glob("*.parquet"))
    lines.append(f"predictions: {', '.join(p.stem for p in predictions) or 'none; write them with ctr-rec evaluate'}")
    lines += _cost(folder)
    if (folder / "report.html").is_file():
        lines.append(f"report: {folder / 'report.html'}")
    return lines


def _cost(folder: Path) -> list[RenderableType]:
    """As counted when a split was scored; nothing for a run that was not."""
    found = [_json(path).get("cost") for path in sorted((folder / "metrics").glob("*.json"))]
    cost = next((c for c in found if c and c.get("flops_per_request") is not None), None)
    if cost is None:
        return []
    return [
        f"cost: {cost['dense']:,} dense parameters, {cost['sparse']:,} in tables; forward "
        f"{cost['flops_per_impression'] / 1e6:,.3f} MFLOP per impression, {cost['flops_per_request'] / 1e6:,.3f} per "
        "request of 60 candidates"
    ]


def _checkpoints(folder: Path) -> str:
    from ctr_rec.checkpoint.history import best_record, committed, root

    steps = [path.name for _, path in committed(folder)]
    record = best_record(folder)
    best = f"; best is step {record.step}, {record.metric} {_short(record.value)}" if record is not None else ""
    where = root(folder)
    elsewhere = "" if where == folder / "checkpoints" else f" in {where}"
    return f"checkpoints{elsewhere}: {', '.join(steps) or 'none'}{best}"


def _state(folder: Path) -> str:
    marker = folder / "clean-stop.json"
    if not marker.is_file():
        return "it is running, or was killed; ctr-rec train ... --resume goes on from its last checkpoint"
    said = ", ".join(f"{k} {v}" for k, v in _json(marker).items())
    return f"it ended in order: {said}"


def _last_lines(metrics: Path) -> list[RenderableType]:
    """The newest line of each kind in metrics.jsonl; a line cut short by a kill is passed over."""
    newest: dict[str, dict[str, Any]] = {}
    for text in metrics.read_text().splitlines() if metrics.is_file() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        newest[str(line.get("kind", line.get("split", "train")))] = line
    said = {kind: {k: v for k, v in line.items() if k != "kind"} for kind, line in newest.items()}
    return [f"last {kind}: " + ", ".join(f"{k} {_short(v)}" for k, v in line.items()) for kind, line in said.items()]


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
