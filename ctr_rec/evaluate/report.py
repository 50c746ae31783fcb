"""report.html: what a run did, from its folder alone. One file without any external resource; light on any machine.

A part whose file is absent is named with the command that makes it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ctr_rec.checkpoint.history import best_record
from ctr_rec.errors import DataError
from ctr_rec.evaluate import charts
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.evaluate.results import TEST_SCORED, now, read_test_scorings
from ctr_rec.files import AnyPath, write_atomically
from ctr_rec.metrics.probability import reliability_bins
from ctr_rec.schema.manifest import SPLITS

TEMPLATE = Path(__file__).with_name("report.html")
HEADLINE = ("auc", "gauc", "logloss", "ne", "calibration")
NUM_BINS = 15
# Slices that are drawn; the others are tables.
DRAWN = ("history length", "item")
# Where a reader should be warned: beyond these, figures are worth less than they look.
MISCALIBRATED, DATA_WAIT, PAST_BEST, FEW_USERS = 0.1, 0.2, 0.005, 200


@dataclass(frozen=True)
class Block:
    """A drawing, a table, or a drawing with its figures as a table. chart: an SVG element."""

    title: str = ""
    chart: Markup | None = None
    headings: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


@dataclass
class Part:
    """A section: its blocks, or why it is absent."""

    title: str
    absent: str = ""
    note: str = ""
    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True)
class Folder:
    """What lies in a run folder, read once; None or empty where absent."""

    path: Path
    config: dict[str, Any] | None
    scorer: dict[str, Any] | None
    environment: dict[str, Any] | None
    plan: dict[str, Any] | None
    best: dict[str, Any] | None
    clean_stop: dict[str, Any] | None
    lines: list[dict[str, Any]]
    metrics: dict[str, dict[str, Any]]
    scorings: list[dict[str, str]]

    @property
    def name(self) -> str:
        source = self.config or {}
        return str(source.get("name") or (self.scorer or {}).get("scorer") or self.path.resolve().name)


def write_report(run_dir: Path) -> Path:
    """Writes `report.html` into a run folder, whole or not at all; returns its path.

    Raises:
        DataError: a file of the folder is damaged (it is named).
    """
    folder = read_folder(run_dir)
    page = _environment().from_string(TEMPLATE.read_text(encoding="utf-8")).render(context(folder))
    path = run_dir / "report.html"
    write_atomically(path, page)
    return path


def read_folder(run_dir: Path) -> Folder:
    """Everything the report shows but the predictions."""
    metrics = {split: _json(run_dir / "metrics" / f"{split}.json") for split in SPLITS[1:]}
    best = best_record(run_dir)
    return Folder(
        path=run_dir,
        config=_json(run_dir / "config.json"),
        scorer=_json(run_dir / "scorer.json"),
        environment=_json(run_dir / "environment.json"),
        plan=_json(run_dir / "plan.json"),
        best=None if best is None else best.model_dump(mode="json"),
        clean_stop=_json(run_dir / "clean-stop.json"),
        lines=_lines(run_dir / "metrics.jsonl"),
        metrics={split: found for split, found in metrics.items() if found is not None},
        scorings=read_test_scorings(run_dir),
    )


def context(folder: Folder) -> dict[str, Any]:
    """What the template is filled with."""
    parts = [_training(folder)] if folder.scorer is None else []
    parts += [part for split in SPLITS[:0:-1] for part in _quality(folder, split)]
    if folder.scorer is None:
        parts += [_throughput(folder), _placement(folder)]
    return {
        "name": folder.name,
        "path": str(folder.path),
        "made": now(),
        "status": _status(folder),
        "cards": _cards(folder),
        "facts": _facts(folder),
        "warnings": _warnings(folder),
        "parts": parts,
        "config": _pretty(folder.config or folder.scorer),
        "environment": _pretty(folder.environment),
    }


def _environment() -> Environment:
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _status(folder: Folder) -> str:
    if folder.scorer is not None:
        return "a scorer without a network"
    if folder.clean_stop is None:
        return "not ended in order: still training, or killed; --resume goes on from the last checkpoint"
    ends = {
        "finished": "finished",
        "early": "stopped early, as validation no longer improved",
        "stopped": "stopped on request; --resume goes on from there",
    }
    end = folder.clean_stop
    return f"{ends.get(str(end.get('end')), str(end.get('end')))}, at step {end.get('step'):,}"


def _cards(folder: Folder) -> list[dict[str, Any]]:
    """The headline: one card per scored split."""
    cards = []
    for split, found in folder.metrics.items():
        metrics = found["metrics"]
        values = [(key, _shown(metrics.get(key))) for key in HEADLINE]
        base = f"{metrics['impressions']:,} impressions, {metrics['groups_total']:,} users"
        rate = "" if metrics["base_rate"] is None else f", {metrics['base_rate']:.1%} positive"
        step = f"step {found['step']:,}, " if "step" in found else ""
        cards.append({"split": split, "values": values, "base": base + rate, "when": f"{step}{found['scored_at']}"})
    return cards


def _facts(folder: Folder) -> list[tuple[str, str]]:
    """Short facts below the headline: data, cost, code."""
    facts: list[tuple[str, str]] = []
    found = next(iter(folder.metrics.values()), None)
    if folder.config is not None:
        data = folder.config["data"]
        facts += [("log", data["log"]), ("label", data["label"]), ("seed", str(folder.config["train"]["seed"]))]
    elif folder.scorer is not None:
        facts += [("log", folder.scorer["log"]), ("label", folder.scorer["label"])]
    if folder.best is not None:
        best = folder.best
        facts.append(("best checkpoint", f"step {best['step']:,}, validation {best['metric']} {best['value']:.5f}"))
    if found is not None and "cost" in found:
        cost = found["cost"]
        facts += [
            ("dense parameters", f"{cost['dense']:,}"),
            *_beside(cost),
            ("table parameters", f"{cost['sparse']:,}"),
            ("arithmetic per impression", f"{cost['flops_per_impression'] / 1e6:,.3f} MFLOP, forward"),
            *_per_request(cost),
            ("scoring speed", f"{found['impressions_per_s']:,.0f} impressions/s on {found['ranks']} rank(s)"),
        ]
        if cost.get("state_bytes_per_user") is not None:
            facts.append(("state per user", f"{cost['state_bytes_per_user'] / 1024:,.1f} KiB for scoring split, mean"))
    if folder.config is None or "cost" in (found or {}):
        return facts + _scored(folder)
    return [*facts, ("cost", f"not counted yet: ctr-rec evaluate {folder.path}"), *_scored(folder)]


def _beside(cost: dict[str, Any]) -> list[tuple[str, str]]:
    """A second network took part in training; it is not among the parameters of the model."""
    return [("parameters of the network beside it", f"{cost['beside']:,}")] if cost.get("beside") else []


def _per_request(cost: dict[str, Any]) -> list[tuple[str, str]]:
    """One user, one history, 60 candidates; files written before it was counted have none."""
    found = cost.get("flops_per_request")
    return [] if found is None else [("arithmetic per request of 60", f"{found / 1e6:,.3f} MFLOP, forward")]


def _scored(folder: Folder) -> list[tuple[str, str]]:
    times = len(folder.scorings)
    if not times:
        return [("test range scored", "never")]
    when = ", ".join(f"{scoring['at']} ({scoring['by']})" for scoring in folder.scorings[-3:])
    return [("test range scored", f"{times} time{'s' * (times > 1)}: {'..., ' if times > 3 else ''}{when}")]


def _warnings(folder: Folder) -> list[str]:
    out = [warning for found in folder.metrics.values() for warning in found.get("warnings", [])]
    if len(folder.scorings) > 1:
        out.append(
            f"the test range was scored {len(folder.scorings)} times: what was chosen after looking at it is no longer "
            f"a fair estimate (times in {TEST_SCORED})"
        )
    for split, found in folder.metrics.items():
        out += _split_warnings(split, found, folder.best)
    valid = [line for line in folder.lines if line.get("kind") == "valid"]
    if folder.config is not None and folder.best is not None and valid:
        metric, best = folder.best["metric"], folder.best["value"]
        worse = abs(valid[-1].get(metric, best) - best)
        if worse > PAST_BEST:
            out.append(f"the last validation {metric} is {worse:.4f} behind the best: the model over-fits after it")
    waits = [line["data_wait_share"] for line in folder.lines if line.get("kind") == "train"]
    if waits and sum(waits) / len(waits) > DATA_WAIT:
        out.append(f"training waited for data {sum(waits) / len(waits):.0%} of the time; raise data.workers")
    if str((folder.environment or {}).get("code", "")).endswith("+changes"):
        out.append("the code that trained this run had changes that no commit holds")
    return list(dict.fromkeys(out))


def _split_warnings(split: str, found: dict[str, Any], best: dict[str, Any] | None) -> list[str]:
    metrics, out = found["metrics"], []
    calibration = metrics.get("calibration")
    if calibration is not None and abs(calibration - 1) > MISCALIBRATED:
        out.append(f"{split}: predictions are {calibration:.2f} times the observed rate")
    if metrics["groups_used"] < FEW_USERS:
        out.append(
            f"{split}: GAUC rests on {metrics['groups_used']:,} users with both labels; small differences are noise"
        )
    if best is not None and found.get("step") != best["step"]:
        out.append(f"{split} was scored at step {found.get('step'):,}, the best checkpoint is of step {best['step']:,}")
    return out


def _training(folder: Folder) -> Part:
    part = Part("Training")
    if not folder.lines:
        part.absent = f"no metrics.jsonl in {folder.path}: the run has not come to its first log line yet"
    else:
        part.blocks.append(Block(chart=Markup(charts.curves(folder.lines))))
    return part


def _throughput(folder: Folder) -> Part:
    part = Part("Throughput")
    train = [line for line in folder.lines if line.get("kind") == "train"]
    if not train:
        part.absent = f"no training line in metrics.jsonl of {folder.path}; `ctr-rec train` writes them"
        return part
    part.blocks.append(Block(chart=Markup(charts.throughput(folder.lines))))
    last = train[-1]
    part.note = (
        f"Last interval: {last['impressions_per_s']:,.0f} impressions/s, {last['tokens_per_s']:,.0f} tokens/s, density "
        f"{last['density']:.2f} (tokens over those of a padded batch), slowest rank over mean "
        f"{last['slowest_over_mean']:.2f}, memory {last['memory_gb']:.2f} GB."
    )
    return part


def _quality(folder: Folder, split: str) -> list[Part]:
    """Slices and calibration of one split; one note where it was not scored."""
    found = folder.metrics.get(split)
    if found is None:
        why = f"not scored yet: ctr-rec evaluate {folder.path} --split {split}"
        return [Part(f"Quality on {split}", absent=why)]
    part = Part(f"Quality on {split}")
    for slicing in found["slices"]:
        buckets = slicing["buckets"]
        drawn = Markup(charts.bars(buckets, found["metrics"])) if slicing["by"] in DRAWN and buckets else None
        part.blocks.append(Block(f"By {slicing['by']}", drawn, *_slice_table(buckets)))
    part.note = "GAUC inside a bucket orders only those impressions of a user that fell in it."
    return [part, _calibration(folder, split)]


def _calibration(folder: Folder, split: str) -> Part:
    part = Part(f"Calibration on {split}")
    path = folder.path / "predictions" / f"{split}.parquet"
    if not path.is_file():
        part.absent = f"no {path.name}: ctr-rec evaluate {folder.path} --split {split}"
        return part
    rows = Predictions.load(path)
    bins = reliability_bins(rows.label, rows.logit, num_bins=NUM_BINS)
    part.blocks.append(Block(chart=Markup(charts.reliability(bins))))
    return part


def _slice_table(buckets: list[dict[str, Any]]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    rows = tuple(
        (
            str(bucket["name"]),
            f"{bucket['impressions']:,}",
            f"{bucket['share']:.1%}",
            f"{bucket['users']:,}",
            *(_shown(bucket["metrics"].get(key), 4) for key in HEADLINE),
        )
        for bucket in buckets
    )
    return ("", "impressions", "share", "users", *HEADLINE), rows


def _placement(folder: Folder) -> Part:
    part = Part("Table placement")
    if folder.plan is None:
        part.absent = f"no plan.json in {folder.path}; `ctr-rec train` writes it"
        return part
    rows = []
    for table in folder.plan["tables"]:
        shards = table["shards"]
        height = max(shard["offset"][0] + shard["size"][0] for shard in shards)
        width = max(shard["offset"][1] + shard["size"][1] for shard in shards)
        ranks = ", ".join(str(rank) for rank in sorted({shard["rank"] for shard in shards}))
        size = f"{height * width * 4 / 2**20:,.2f}"
        rows.append((table["table"], f"{height:,}", str(width), size, table["sharding"], table["kernel"], ranks))
    headings = ("table", "rows", "width", "MiB", "sharding", "kernel", "ranks")
    title = f"{folder.plan['world_size']} rank(s), {folder.plan['device']}"
    part.blocks.append(Block(title, None, headings, tuple(rows)))
    return part


def _shown(value: float | None, digits: int = 5) -> str:
    return "undefined" if value is None else f"{value:.{digits}f}"


def _pretty(value: dict[str, Any] | None) -> str:
    return "" if value is None else json.dumps(value, indent=2)


def _json(path: AnyPath) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected JSON, got something else ({error}); restore or remove it") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, got {type(content).__name__}; restore or remove it")
    return content


def _lines(path: Path) -> list[dict[str, Any]]:
    """Log lines; one cut short by a kill is left out, as on resume."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return [line for line in lines if isinstance(line, dict) and "step" in line]
