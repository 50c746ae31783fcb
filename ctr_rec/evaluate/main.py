"""`ctr-rec evaluate` and `ctr-rec predict`: a run folder scores a split, on one process or under torchrun."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from ctr_rec.batch.batch import Batch
from ctr_rec.batch.reader import Reader
from ctr_rec.checkpoint.manifest import Manifest
from ctr_rec.errors import ConfigError
from ctr_rec.evaluate import results
from ctr_rec.evaluate.cut import cut_run
from ctr_rec.evaluate.identity import raw_ids
from ctr_rec.evaluate.opened import open_run
from ctr_rec.evaluate.predict import predict as predict_split
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.evaluate.progress import ScoringProgress
from ctr_rec.evaluate.report import write_report
from ctr_rec.evaluate.stream import first_times
from ctr_rec.evaluate.unseen import unseen
from ctr_rec.models.cost import Cost, CostCounter
from ctr_rec.models.ranker import Branch
from ctr_rec.schema.manifest import SPLITS, LogManifest
from ctr_rec.serve.split_run import SplitRun
from ctr_rec.sharding.agreement import on_main
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.train.build import Built, ranker_of
from ctr_rec.train.environment import code_version
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.run import Run


@dataclass(frozen=True)
class Scored:
    """Predictions of a split by a checkpoint, the same on every rank, and what was measured on the way.

    run: as its folder has it. built: of it, without a second network that was not asked for.
    unseen: share of the impressions with an id that the model reads as row 0, see evaluate/unseen.py.
    cost: of the branch, counted on the whole split.
    history: newest visible events that each impression was given; None: as the run says.
    """

    predictions: Predictions
    unseen: float
    cost: Cost
    run: Run
    branch: Branch
    built: Built
    checkpoint: Manifest
    seconds: float
    doubts: tuple[str, ...]
    history: int | None
    facts: tuple[str, ...] = ()


def evaluate(
    run_dir: Path,
    split: str = "test",
    checkpoint: str = "best",
    log: Path | None = None,
    history: int | None = None,
    branch: Branch = Branch.SEQUENCE,
) -> None:
    """Scores a split and leaves predictions, metrics and report.html in the run folder; prints the metrics.

    Of the second network, predictions and metrics lie in a folder `beside` of it, and there is no report.

    Args:
        run_dir: folder of a run.
        split: `valid`, `test`, or the `train` range of another log: a period that the run has not trained on yet. Each
            scoring of the test range is counted in the folder.
        checkpoint: `best`, `last` or `step-N`.
        log: prepared log with the run's tables, or one that grew from the run's, instead of the one it was trained on.
        branch: SEQUENCE, the run's model, or BESIDE, the second network that it was trained with.
        history: gives each impression its newest visible events alone, so many; the files then are named after it,
            and there is no report.

    Raises:
        ConfigError: no run folder, no such split, no second network, or a history for a run that reads none.
        CheckpointError: no such checkpoint, or it is damaged, without the second network or was trained on other data.
        SchemaError: the log has not the features or tables that the model reads. DataError: the log cannot be read or
        has no impression in the split.
    """
    with open_group() as group:
        scored = score(run_dir, split, checkpoint, log, group, history, branch)
        on_main(group, lambda: _finish(run_dir, split, scored))


def predict(
    run_dir: Path,
    out: Path,
    split: str = "test",
    checkpoint: str = "best",
    log: Path | None = None,
    history: int | None = None,
    micro_batch: int | None = None,
) -> None:
    """Writes the predictions of a split to the Parquet file `out` and nothing else. Arguments as in `evaluate`.

    micro_batch: score users' states and so many candidates at a time instead of packed users, and print how far the
    two are apart. Raises ConfigError where the tower has no state.
    """
    with open_group() as group:
        scored = score(run_dir, split, checkpoint, log, group, history, micro_batch=micro_batch)
        on_main(group, lambda: _write(run_dir, out, split, scored))


def score(
    run_dir: Path,
    split: str,
    checkpoint: str,
    log: Path | None,
    group: Group,
    history: int | None = None,
    branch: Branch = Branch.SEQUENCE,
    micro_batch: int | None = None,
) -> Scored:
    """Rebuilds the run from its folder on this rank of an open group, and scores. A collective.

    micro_batch: score as a scorer would, so many candidates of a user at a time; None scores packed.
    """
    if split not in SPLITS:
        raise ConfigError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    if split == SPLITS[0] and log is None:
        raise ConfigError(
            "split: the train range of the run's own log is what it was trained on; name another log, such as the next "
            "period's, with --log, or score valid or test"
        )
    run = RunFolder(run_dir).load_run()
    if branch is Branch.BESIDE and run.beside is None:
        raise ConfigError(f"{run_dir} was trained without a second network; leave --branch out")
    if branch is Branch.BESIDE and history is not None:
        raise ConfigError(f"--history {history} cuts what the model is given; leave it or --branch out")

    def scored_run(run: Run) -> Run:
        run = run if history is None else cut_run(run, history)
        return run if branch is Branch.BESIDE else run.model_copy(update={"beside": None})

    built, stored = open_run(run_dir, checkpoint, log, group, scored_run)
    doubts = _doubts(stored, built, split, log)
    model = None if micro_batch is None else SplitRun(built.ranker, micro_batch)
    started = time.perf_counter()
    counter = _counter(built, run, branch)
    predictions, share = score_split(built, split, built.scored(split, branch), branch, model, counter)
    seconds = time.perf_counter() - started - counter.seconds
    found = counter.cost(built.spec, group.gather_arrays(counter.sums[None]).sum(axis=0))
    facts = () if model is None else (_agreement(model, group),)
    return Scored(predictions, share, found, run, branch, built, stored, seconds, doubts, history, facts)


def score_split(
    built: Built,
    split: str,
    reader: Reader,
    branch: Branch = Branch.SEQUENCE,
    model: SplitRun | None = None,
    counter: CostCounter | None = None,
) -> tuple[Predictions, float]:
    """Predictions of a split by the live model, and the share of its impressions with unseen ids. A collective.

    model: scores in its place. counter: is shown this rank's batches.
    """
    group = built.group
    new = first_times(built.run.data.log) > _known_until(built.manifest, split)
    counts = np.zeros((1, 2), np.int64)

    def watch(batch: Batch) -> None:
        real = batch.weight > 0
        counts[0] += (int((unseen(batch) & real).sum()), int(real.sum()))
        if counter is not None:
            counter.add(batch)

    with ScoringProgress(f"scoring {split}", group.is_main) as progress:
        predictions = predict_split(model or built.parallel.model, reader, group, new, progress, watch, branch)
    without, every = group.gather_arrays(counts).sum(axis=0).tolist()
    return predictions, without / max(every, 1)


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


def keep(run_dir: Path, split: str, scored: Scored) -> results.Results:
    """Measures predictions and writes them with their metrics where the files of the branch lie. On one rank."""
    built = scored.built
    log, manifest = built.run.data.log, built.manifest
    facts, since = _facts(split, scored), _known_until(manifest, split)
    found = results.measure(split, scored.predictions, log, manifest, facts, scored.history, since=since)
    results.save(_folder(run_dir, scored.branch), found, scored.predictions, log, manifest)
    return found


def _folder(run_dir: Path, branch: Branch) -> Path:
    folder = run_dir / branch.value if branch is Branch.BESIDE else run_dir
    folder.mkdir(exist_ok=True)
    return folder


def _finish(run_dir: Path, split: str, scored: Scored) -> None:
    found = keep(run_dir, split, scored)
    console = Console()
    found.print(console)
    _count(run_dir, split, scored, "evaluate", console)
    _warn(scored, console)
    # The report speaks of the run as it is.
    folder = _folder(run_dir, scored.branch)
    as_it_is = scored.history is None and folder == run_dir
    wrote = write_report(run_dir) if as_it_is else folder / "metrics" / f"{found.name}.json"
    console.print(f"{'report' if as_it_is else 'metrics'}: {wrote}", highlight=False, soft_wrap=True)


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
        whose = f" of {scored.branch.value}" if scored.branch is Branch.BESIDE else ""
        by = f"{verb}{whose}{_on(scored.history)}, step {scored.checkpoint.step}"
        times = results.count_test_scoring(run_dir, by)
        console.print(f"the test range was scored {times} time(s) by this run", highlight=False, soft_wrap=True)


def _on(history: int | None) -> str:
    return "" if history is None else f" on history {history}"


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
        "cost": scored.cost.model_dump(mode="json"),
        "warnings": list(scored.doubts),
    }


def _counter(built: Built, run: Run, branch: Branch) -> CostCounter:
    """Counts on a ranker of its own, tables on "meta": the live one may be wrapped. run: with all of its networks."""
    tower = run.tower if branch is Branch.SEQUENCE else run.beside
    assert tower is not None
    return CostCounter(ranker_of(run, built.spec), branch, tower.reach)
