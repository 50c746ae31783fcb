"""What a run says while it trains: one line per interval, metrics.jsonl, TensorBoard, and the numbers behind them."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard.writer import SummaryWriter

from ctr_rec.batch.batch import Batch
from ctr_rec.metrics.window import WindowMetrics
from ctr_rec.sharding.group import Group
from ctr_rec.train.step import StepResult


@dataclass
class Interval:
    """Sums since the last log line, on one rank. The learnt part survives a checkpoint; the clocks do not."""

    loss_sum: float = 0.0
    weight: float = 0.0
    impressions: int = 0
    tokens: int = 0
    padded: int = 0
    steps: int = 0
    beside_sum: float = 0.0
    beside_weight: float = 0.0
    started: float = field(default_factory=time.perf_counter)
    paused: float = 0.0
    busy: float = field(default_factory=time.process_time)

    LEARNT = ("loss_sum", "weight", "impressions", "tokens", "padded", "steps", "beside_sum", "beside_weight")

    def add(self, batch: Batch, result: StepResult) -> None:
        self.loss_sum += float(result.loss_sum)
        self.weight += float(batch.weight.sum())
        self.impressions += int((batch.weight > 0).sum())
        self.tokens += batch.num_tokens
        self.padded += _padded_tokens(batch)
        self.steps += 1
        if result.beside_sum is not None:
            self.add_beside(batch, result.beside_sum)

    def add_beside(self, batch: Batch, loss_sum: torch.Tensor) -> None:
        """A loss beside the first: of the second network, or of a pass after the first one."""
        self.beside_sum += float(loss_sum)
        self.beside_weight += float(batch.weight.sum())

    def to_array(self) -> np.ndarray:
        return np.array([getattr(self, name) for name in self.LEARNT], np.float64)

    def load_array(self, array: np.ndarray) -> None:
        # A checkpoint of before there were second losses has fewer.
        for name, value in zip(self.LEARNT, array.tolist(), strict=False):
            setattr(self, name, type(getattr(self, name))(value))


def _padded_tokens(batch: Batch) -> int:
    """Tokens that the same batch would take as a padded rectangle per channel (or per user, when packed)."""
    if batch.histories:
        return sum(int(h.lengths().max()) * batch.num_impressions for h in batch.histories.values())
    longest = int((batch.event_offsets[1:] - batch.event_offsets[:-1]).max()) if batch.num_users else 0
    return longest * batch.num_users + batch.num_impressions


class IntervalLog:
    """Gathers what every rank measured since the last line into one dict of numbers. A collective."""

    def __init__(self, group: Group, window: int) -> None:
        self.group = group
        self.window = WindowMetrics(capacity=max(1, window // group.size))
        self.interval = Interval()

    def add(self, batch: Batch, result: StepResult) -> None:
        self.interval.add(batch, result)
        real = batch.weight > 0
        self.window.update(batch.label[real].cpu().numpy(), result.logit[real].cpu().numpy())

    def add_beside(self, batch: Batch, loss_sum: torch.Tensor) -> None:
        """The loss of a pass after the first of its step."""
        self.interval.add_beside(batch, loss_sum)

    def pause(self, seconds: float) -> None:
        """Time spent in validation or saving is not training time."""
        self.interval.paused += seconds

    def line(self, waited: float) -> dict[str, float]:
        """Numbers of the interval over all ranks; waited: seconds this rank waited for data. Starts a new one."""
        i = self.interval
        wall = max(1e-9, time.perf_counter() - i.started - i.paused)
        busy = time.process_time() - i.busy
        memory = float(psutil.Process().memory_info().rss)
        if self.group.device.type == "cuda":
            memory = float(torch.cuda.max_memory_allocated(self.group.device))
        mine = np.array([[*i.to_array(), wall, busy, waited, memory]])
        ranks = self.group.gather_arrays(mine)
        window = WindowMetrics.compute_merged(self._windows())
        total = dict(zip(Interval.LEARNT, ranks[:, : len(Interval.LEARNT)].sum(0).tolist(), strict=True))
        walls, busies, waits, memories = ranks[:, len(Interval.LEARNT) :].T
        self.interval = Interval()
        beside = {"beside_loss": total["beside_sum"] / total["beside_weight"]} if total["beside_weight"] else {}
        return {
            "loss": total["loss_sum"] / max(1.0, total["weight"]),
            **beside,
            "window_auc": float(window["auc"]),
            "window_ne": float(window["ne"]),
            "density": total["tokens"] / max(1.0, total["padded"]),
            "impressions_per_s": total["impressions"] / float(walls.max()),
            "tokens_per_s": total["tokens"] / float(walls.max()),
            "data_wait_share": float((waits / walls).max()),
            "slowest_over_mean": float(busies.max() / max(1e-9, busies.mean())),
            "memory_gb": float(memories.max()) / 1e9,
        }

    def _windows(self) -> list[dict[str, Any]]:
        state = self.window.to_arrays()
        return [{name: self.group.gather_arrays(array) for name, array in state.items()}]


class Record:
    """Writes to the run folder and the terminal, on the main rank; elsewhere it is silent.

    step: of the checkpoint that training goes on from; TensorBoard forgets what was written after it.
    """

    def __init__(self, path: Path, main: bool, total_steps: int, step: int = 0) -> None:
        self.main = main
        self._jsonl: TextIO | None = (path / "metrics.jsonl").open("a") if main else None
        self._board = SummaryWriter(str(path / "tensorboard"), purge_step=step + 1 if step else None) if main else None
        self._console = Console(stderr=True, quiet=not main)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (main and sys.stderr.isatty()),
        )
        self._task = self._progress.add_task("training", total=total_steps)

    def __enter__(self) -> Record:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._progress.stop()
        if self._jsonl is not None:
            self._jsonl.close()
        if self._board is not None:
            self._board.close()

    def advance(self, step: int) -> None:
        self._progress.update(self._task, completed=step)

    def say(self, text: str) -> None:
        if self.main:
            self._console.print(text, highlight=False, soft_wrap=True)

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """One JSON line, flushed, and the same numbers as TensorBoard scalars below `kind`."""
        if self._jsonl is None or self._board is None:
            return
        plain = {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in values.items()}
        self._jsonl.write(json.dumps({"kind": kind, "step": step, **plain}, allow_nan=False) + "\n")
        self._jsonl.flush()
        for name, value in values.items():
            if isinstance(value, (int, float)) and np.isfinite(value):
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def train_line(self, step: int, epoch: int, lr: float, line: dict[str, float]) -> None:
        self.write("train", step, {"epoch": epoch, "lr": lr, **line})
        beside = f" beside {line['beside_loss']:.4f}" if "beside_loss" in line else ""
        self.say(
            f"step {step} epoch {epoch} | {line['impressions_per_s']:,.0f} impressions/s {line['tokens_per_s']:,.0f} "
            f"tokens/s density {line['density']:.2f} | loss {line['loss']:.4f}{beside} lr {lr:.2e} "
            f"auc {line['window_auc']:.4f} ne {line['window_ne']:.4f} | data wait {line['data_wait_share']:.0%} "
            f"slowest/mean {line['slowest_over_mean']:.2f} memory {line['memory_gb']:.2f} GB"
        )
