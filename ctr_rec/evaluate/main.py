"""`ctr-rec evaluate` and `ctr-rec predict`: a run folder scores a split, on one process or under torchrun."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from ctr_rec.batch.batch import Batch
from ctr_rec.batch.reader import Reader
from ctr_rec.checkpoint.history import find
from ctr_rec.checkpoint.manifest import Manifest, check_compatible, read_manifest
from ctr_rec.errors import CheckpointError, ConfigError
from ctr_rec.evaluate import results
from ctr_rec.evaluate.identity import raw_ids
from ctr_rec.evaluate.predict import predict as predict_split
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.evaluate.progress import ScoringProgress
from ctr_rec.evaluate.report import write_report
from ctr_rec.evaluate.stream import first_times
from ctr_rec.evaluate.unseen import unseen
from ctr_rec.models.cost import Cost, cost
from ctr_rec.models.ranker import Ranker
from ctr_rec.schema.manifest import SPLITS, LogManifest, load_manifest
from ctr_rec.schema.table import SparseSpec
from ctr_rec.sharding.agreement import on_main
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.train.build import Built, build
from ctr_rec.train.checkpoints import load_weights
from ctr_rec.train.environment import code_version
from ctr_rec.train.folder import RunFolder


@dataclass(frozen=True)
class Scored:
    """Predictions of a split by a checkpoint, the same on every rank, and what was measured on the way.

    unseen: share of the impressions with an id that the model reads as row 0, see evaluate/unseen.py.
    """

    predictions: Predictions
    unseen: float
    built: Built
    checkpoint: Manifest
    seconds: float
    doubts: tuple[str, ...]


def evaluate(run_dir: Path, split: str = "test", checkpoint: str = "best", log: Path | None = None) -> None:
    """Scores a split and leaves predictions, metrics and report.html in the run folder; prints the metrics.

    Args:
        run_dir: folder of a run.
        split: `valid`, `test`, or the `train` range of another log: a period that the run has not trained on yet. Each
            scoring of the test range is counted in the folder.
        checkpoint: `best`, `last` or `step-N`.
        log: prepared log with the run's tables, or one that grew from the run's, instead of the one it was trained on.

    Raises:
        ConfigError: no run folder, or no such split. CheckpointError: no such checkpoint, or it is damaged or was
        trained on other data. SchemaError: the log has not the features or tables that the model reads. DataError: the
        log cannot be read or has no impression in the split.
    """
    with open_group() as group:
        scored = score(run_dir, split, checkpoint, log, group)
        on_main(group, lambda: _finish(run_dir, split, scored))


def predict(run_dir: Path, out: Path, split: str = "test", checkpoint: str = "best", log: Path | None = None) -> None:
    """Writes the predictions of a split to the Parquet file `out` and nothing else. Arguments as in `evaluate`."""
    with open_group() as group:
        scored = score(run_dir, split, checkpoint, log, group)
        on_main(group, lambda: _write(run_dir, out, split, scored))


def score(run_dir: Path, split: str, checkpoint: str, log: Path | None, group: Group) -> Scored:
    """Rebuilds the run from its folder on this rank of an open group, and scores. A collective."""
    if split not in SPLITS:
        raise ConfigError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    if split == SPLITS[0] and log is None:
        raise ConfigError(
            "split: the train range of the run's own log is what it was trained on; name another log, such as the next "
            "period's, with --log, or score valid or test"
        )
    folder = RunFolder(run_dir)
    run = folder.load_run()
    if log is not None:
        run = run.model_copy(update={"data": run.data.model_copy(update={"log": str(log)})})
    if run.train.threads is not None:
        torch.set_num_threads(run.train.threads)
    stored = read_manifest(find(run_dir, checkpoint))
    grown = stored.data_fingerprint in load_manifest(run.data.log).grown_from
    built = build(run, group, _inputs_of(folder, stored), grown)
    reader = built.scored(split)
    load_weights(folder, built, checkpoint)
    doubts = _check_data(stored, built, split, log)
    started = time.perf_counter()
    predictions, share = score_split(built, split, reader)
    return Scored(predictions, share, built, stored, time.perf_counter() - started, doubts)


def score_split(built: Built, split: str, reader: Reader) -> tuple[Predictions, float]:
    """Predictions of a split by the live model, and the share of its impressions with unseen ids. A collective."""
    group = built.group
    new = first_times(built.run.data.log) > _known_until(built.manifest, split)
    counts = np.zeros((1, 2), np.int64)

    def watch(batch: Batch) -> None:
        real = batch.weight > 0
        counts[0] += (int((unseen(batch) & real).sum()), int(real.sum()))

    with ScoringProgress(f"scoring {split}", group.is_main) as progress:
        predictions = predict_split(built.parallel.model, reader, group, new, progress, watch)
    without, every = group.gather_arrays(counts).sum(axis=0).tolist()
    return predictions, without / max(every, 1)


def _inputs_of(folder: RunFolder, stored: Manifest) -> SparseSpec | None:
    """What the checkpoint's model reads: the run's inputs, with tables as long as they were when it was saved."""
    spec = folder.load_inputs()
    if spec is None:
        return None
    tables = [t.model_copy(update={"rows": stored.tables.get(t.name, (t.rows,))[0]}) for t in spec.tables]
    return spec.model_copy(update={"tables": tuple(tables)})


def _check_data(stored: Manifest, built: Built, split: str, log: Path | None) -> tuple[str, ...]:
    """Refuses a log that changed behind the run's back; says what a log given on purpose may do to the metrics."""
    manifest = built.manifest
    if log is None:
        try:
            check_compatible(stored, manifest.fingerprint, built.spec)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; or say --log {built.run.data.log} to score it all the same") from error
        return ()
    doubts = []
    if stored.data_fingerprint not in ("", manifest.fingerprint, *manifest.grown_from):
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
    """Every impression of the split is later; without a beginning, the log's first time is."""
    ends = manifest.split
    start = (ends.train_start, ends.train_end, ends.valid_end)[SPLITS.index(split)]
    return manifest.time_range[0] - 1 if start is None else start


def _known_until(manifest: LogManifest, split: str) -> int:
    """Users and items that come later are new to the model."""
    return _range_start(manifest, split) if split == SPLITS[0] else manifest.split.train_end


def _finish(run_dir: Path, split: str, scored: Scored) -> None:
    built = scored.built
    log, manifest = built.run.data.log, built.manifest
    found = results.measure(
        split, scored.predictions, log, manifest, _facts(split, scored), since=_known_until(manifest, split)
    )
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
        "unseen_ids": scored.unseen,
        "cost": _cost(built, split).model_dump(mode="json"),
        "warnings": list(scored.doubts),
    }


def _cost(built: Built, split: str) -> Cost:
    """Counted on the first batch of the split; tables stay on "meta"."""
    ranker = Ranker(built.spec, built.run.tower, tuple(built.run.data.channels))
    return cost(ranker, built.spec, next(iter(built.scored(split).batches(epoch=0))))
