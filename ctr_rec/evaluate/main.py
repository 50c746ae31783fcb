"""`ctr-rec evaluate` and `ctr-rec predict`: a run folder scores a split, on one process or under torchrun."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from ctr_rec.checkpoint.manifest import Manifest
from ctr_rec.errors import ConfigError
from ctr_rec.evaluate import results
from ctr_rec.evaluate.identity import raw_ids
from ctr_rec.evaluate.opened import open_run
from ctr_rec.evaluate.predict import predict as predict_split
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.evaluate.progress import ScoringProgress
from ctr_rec.evaluate.report import write_report
from ctr_rec.models.cost import Cost, cost
from ctr_rec.models.ranker import Ranker
from ctr_rec.schema.manifest import SPLITS, LogManifest
from ctr_rec.serve.split_run import SplitRun
from ctr_rec.sharding.agreement import on_main
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.train.build import Built
from ctr_rec.train.environment import code_version

SCORED_SPLITS = ("valid", "test")


@dataclass(frozen=True)
class Scored:
    """Predictions of a split by a checkpoint, the same on every rank, and what was measured on the way."""

    predictions: Predictions
    built: Built
    checkpoint: Manifest
    seconds: float
    doubts: tuple[str, ...]
    facts: tuple[str, ...] = ()


def evaluate(run_dir: Path, split: str = "test", checkpoint: str = "best", log: Path | None = None) -> None:
    """Scores a split and leaves predictions, metrics and report.html in the run folder; prints the metrics.

    Args:
        run_dir: folder of a run.
        split: `valid` or `test`; each scoring of the test range is counted in the folder.
        checkpoint: `best`, `last` or `step-N`.
        log: prepared log with the run's tables, instead of the one it was trained on.

    Raises:
        ConfigError: no run folder, or no such split. CheckpointError: no such checkpoint, or it is damaged or was
        trained on other data. SchemaError: the log has not the features or tables that the model reads. DataError: the
        log cannot be read or has no impression in the split.
    """
    with open_group() as group:
        scored = score(run_dir, split, checkpoint, log, group)
        on_main(group, lambda: _finish(run_dir, split, scored))


def predict(
    run_dir: Path,
    out: Path,
    split: str = "test",
    checkpoint: str = "best",
    log: Path | None = None,
    micro_batch: int | None = None,
) -> None:
    """Writes the predictions of a split to the Parquet file `out` and nothing else. Arguments as in `evaluate`.

    micro_batch: score users' states and so many candidates at a time instead of packed users, and print how far the
    two are apart. Raises ConfigError where the tower has no state.
    """
    with open_group() as group:
        scored = score(run_dir, split, checkpoint, log, group, micro_batch)
        on_main(group, lambda: _write(run_dir, out, split, scored))


def score(
    run_dir: Path, split: str, checkpoint: str, log: Path | None, group: Group, micro_batch: int | None = None
) -> Scored:
    """Rebuilds the run from its folder on this rank of an open group, and scores. A collective.

    micro_batch: score as a scorer would, so many candidates of a user at a time; None scores packed.
    """
    if split not in SCORED_SPLITS:
        raise ConfigError(f"split: expected one of {', '.join(SCORED_SPLITS)}, got {split!r}")
    built, stored = open_run(run_dir, checkpoint, log, group)
    reader = built.reader(split, 0)
    doubts = _doubts(stored, built, split, log)
    model = built.parallel.model if micro_batch is None else SplitRun(built.ranker, micro_batch)
    started = time.perf_counter()
    with ScoringProgress(f"scoring {split}", group.is_main) as progress:
        predictions = predict_split(model, reader, group, built.item_is_new, progress)
    seconds, facts = time.perf_counter() - started, ()
    if isinstance(model, SplitRun):
        facts = (_agreement(model, group),)
    return Scored(predictions, built, stored, seconds, doubts, facts)


def _agreement(split_run: SplitRun, group: Group) -> str:
    rows = group.gather_arrays(np.array([[split_run.largest_difference, split_run.users, split_run.state_bytes]]))
    users = int(rows[:, 1].sum())
    return (
        f"split run: {users:,} states of {rows[:, 2].sum() / max(users, 1) / 1024:,.1f} KiB on average; largest "
        f"difference of a logit to the packed pass {rows[:, 0].max():.1e}"
    )


def _doubts(stored: Manifest, built: Built, split: str, log: Path | None) -> tuple[str, ...]:
    """What a log given on purpose may do to the metrics."""
    manifest = built.manifest
    if log is None:
        return ()
    doubts = []
    if stored.data_fingerprint not in ("", manifest.fingerprint):
        doubts.append(
            f"{log} is not the log of the run: tables have the same sizes, but their rows may stand for other ids and "
            "numbers may be scaled otherwise, so the metrics may be too bad"
        )
    first = _range_start(manifest, split)
    if stored.train_range is not None and first < stored.train_range[1]:
        doubts.append(
            f"{split} of {log} begins at {first}, but the run was trained up to {stored.train_range[1]}: the model may "
            "have seen these impressions, so the metrics may be too good"
        )
    return tuple(doubts)


def _range_start(manifest: LogManifest, split: str) -> int:
    return manifest.split.train_end if split == SPLITS[1] else manifest.split.valid_end


def _finish(run_dir: Path, split: str, scored: Scored) -> None:
    built = scored.built
    log, manifest = built.run.data.log, built.manifest
    found = results.measure(split, scored.predictions, log, manifest, _facts(split, scored))
    results.save(run_dir, found, scored.predictions, log, manifest)
    console = Console()
    found.print(console)
    _count(run_dir, split, scored, "evaluate", console)
    _warn(scored, console)
    console.print(f"report: {write_report(run_dir)}", highlight=False, soft_wrap=True)


def _write(run_dir: Path, out: Path, split: str, scored: Scored) -> None:
    built = scored.built
    scored.predictions.save(out, raw_ids(built.run.data.log, built.manifest, scored.predictions))
    console = Console(stderr=True)
    console.print(f"{len(scored.predictions):,} predictions: {out}", highlight=False, soft_wrap=True)
    for fact in scored.facts:
        console.print(fact, highlight=False, soft_wrap=True)
    _count(run_dir, split, scored, "predict", console)
    _warn(scored, console)


def _count(run_dir: Path, split: str, scored: Scored, verb: str, console: Console) -> None:
    if split == SPLITS[2]:
        times = results.count_test_scoring(run_dir, f"{verb}, step {scored.checkpoint.step}")
        console.print(f"the test range was scored {times} time(s) by this run", highlight=False, soft_wrap=True)


def _warn(scored: Scored, console: Console) -> None:
    for doubt in scored.doubts:
        console.print(f"warning: {doubt}", highlight=False, soft_wrap=True)


def _facts(split: str, scored: Scored) -> dict[str, Any]:
    built = scored.built
    return {
        "scorer": built.run.name,
        "label": built.run.data.label,
        "step": scored.checkpoint.step,
        "code": code_version(),
        "ranks": built.group.size,
        "seconds": round(scored.seconds, 3),
        "impressions_per_s": len(scored.predictions) / max(scored.seconds, 1e-9),
        "cost": _cost(built, split).model_dump(mode="json"),
        "warnings": list(scored.doubts),
    }


def _cost(built: Built, split: str) -> Cost:
    """Counted on the first batch of the split; tables stay on "meta"."""
    ranker = Ranker(built.spec, built.run.tower, tuple(built.run.data.channels))
    return cost(ranker, built.spec, next(iter(built.reader(split, 0).batches(epoch=0))))
