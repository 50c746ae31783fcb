"""Checkpoints: how long training stands still for a save, with and without a copy that is written in the background."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import count, cycle
from pathlib import Path
from typing import Any

import torch

from ctr_rec.bench.record import Emit
from ctr_rec.bench.synthetic import CHANNEL, Shape, item_batch, item_spec
from ctr_rec.bench.tables import step
from ctr_rec.checkpoint.background import Background, snapshot
from ctr_rec.checkpoint.history import remove
from ctr_rec.checkpoint.manifest import Manifest
from ctr_rec.checkpoint.state import training_state
from ctr_rec.checkpoint.store import save
from ctr_rec.models.baselines.din import DINConfig
from ctr_rec.models.ranker import Ranker
from ctr_rec.sharding.group import Group, group_beside, open_group
from ctr_rec.sharding.parallelize import Parallel, parallelize
from ctr_rec.sharding.plan import ShardingConfig

ROWS, WIDTH = 1_200_000, 64
GOAL = ">= 5"
STEPS = 4


def run(emit: Emit, log: Path | None = None, rows: int = ROWS, runs: int = 5) -> None:
    """Emit the seconds that a save holds training up, both ways in turn, and what a step costs meanwhile.

    One rank, CPU; files go to the system's temporary folder. `log` is not used.
    """
    del log
    torch.manual_seed(0)
    spec = item_spec(rows, WIDTH)
    with open_group("cpu") as group, tempfile.TemporaryDirectory() as folder:
        parallel = parallelize(Ranker(spec, DINConfig(), (CHANNEL,)), spec.tables, ShardingConfig(), group)
        _Saves(parallel, group, Path(folder), rows).measure(emit, runs)


class _Saves:
    """One model that trains and saves; seconds by what was measured."""

    def __init__(self, parallel: Parallel, group: Group, folder: Path, rows: int) -> None:
        self.parallel, self.group, self.folder, self.rows = parallel, group, folder, rows
        self.beside = group_beside(group)
        self.dense = torch.optim.AdamW(parallel.dense_parameters.values(), lr=1e-3)
        shape = Shape(impressions=512, users=64, distinct=5_000, history=20)
        self.batches = cycle([item_batch(shape, rows, seed) for seed in range(STEPS)])
        self.names = count()
        self.background = Background()
        self.copy: dict[str, Any] | None = None

    def state(self) -> dict[str, Any]:
        return training_state(
            self.parallel.model, self.parallel.fused_optimizer, self.dense, self.parallel.dense_parameters
        )

    def steps(self, while_true: Callable[[int], bool]) -> list[float]:
        """Seconds of each step, for as long as the function of their number says so."""
        seconds: list[float] = []
        while while_true(len(seconds)):
            seconds.append(_seconds(lambda: step(self.parallel, self.dense, next(self.batches))))
        return seconds

    def synchronous(self) -> float:
        """Seconds that training stands still."""
        path = self.folder / f"step-{next(self.names)}"
        seconds = _seconds(lambda: save(path, self.state(), Manifest(step=0), {}, self.group))
        remove(path)
        return seconds

    def asynchronous(self) -> tuple[float, float, list[float]]:
        """Seconds that training stands still, that the save takes, and of each step meanwhile."""
        path, started = self.folder / f"step-{next(self.names)}", time.perf_counter()
        self.copy = copied = snapshot(self.state(), self.copy)
        self.background.start("a save", lambda: save(path, copied, Manifest(step=0), {}, self.beside))
        still = time.perf_counter() - started
        steps = self.steps(lambda done: self.background.running)
        self.background.wait()
        remove(path)
        return still, self.background.seconds, steps

    def measure(self, emit: Emit, runs: int) -> None:
        alone = self.steps(lambda done: done < 2 * STEPS)[STEPS:]
        self.synchronous()
        first, _, _ = self.asynchronous()
        sync, still, whole, meanwhile = [], [], [], []
        for _ in range(runs):
            sync.append(self.synchronous())
            a, b, c = self.asynchronous()
            still.append(a)
            whole.append(b)
            meanwhile += c
            alone += self.steps(lambda done: done < STEPS)
        case = f"table of {self.rows:,} x {WIDTH}, {self.rows * WIDTH * 4 / 2**20:.0f} MiB, row-wise Adagrad, one rank"
        held = "training stands still"
        _emit(emit, case, f"{held}, synchronous", sync)
        _emit(emit, case, f"{held}, asynchronous", still, sync, GOAL)
        _emit(emit, case, f"{held}, the first asynchronous save, which takes the memory", [first], sync)
        _emit(emit, case, "the save in the background", whole)
        if meanwhile:
            _emit(emit, case, "a training step while a save is under way", meanwhile, alone)


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _emit(
    emit: Emit, case: str, metric: str, got: Sequence[float], base: Sequence[float] = (), goal: str | None = None
) -> None:
    value, baseline = statistics.median(got), statistics.median(base) if base else None
    ratio = baseline / value if baseline is not None else None
    emit(
        "checkpoint",
        case,
        metric,
        value,
        "s",
        baseline=baseline,
        ratio=ratio,
        goal=goal,
        min=min(got),
        max=max(got),
        runs=len(got),
    )
