"""What every bench emits: one JSON object per line, and the timing that stands behind it.

A shared machine drifts, so candidates are timed in turn (A B A B ...) and compared by ratio within one call.
"""

from __future__ import annotations

import json
import math
import operator
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Protocol, TextIO

import torch

from ctr_rec.errors import ConfigError

_COMPARISONS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
_PACKAGES = ("torch", "torchrec", "fbgemm-gpu-cpu", "fbgemm-gpu", "numpy", "pyarrow", "scikit-learn")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One figure.

    bench, case, metric: which bench, under which conditions, what was measured.
    value, min, max: median and range over `runs` repetitions, in `unit`.
    baseline: the same figure of what it is compared with, or None.
    ratio: how many times better than the baseline (over 1 is better), or None.
    goal: the figure asked for, such as ">= 5", or None. It speaks of `ratio` where there is one, else of `value`.
    environment: versions and machine.
    """

    bench: str
    case: str
    metric: str
    value: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None
    goal: str | None = None
    min: float | None = None
    max: float | None = None
    runs: int = 1
    environment: Mapping[str, str]

    def to_json(self) -> str:
        """One line; a figure that is not finite becomes null, which every JSON reader accepts."""
        fields = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }
        return json.dumps(fields, ensure_ascii=False)

    def goal_met(self) -> bool | None:
        """Whether the goal is reached; None without a goal.

        Raises:
            ConfigError: the goal is not a comparison and a number.
        """
        if self.goal is None:
            return None
        sign, _, bound = self.goal.partition(" ")
        try:
            limit = float(bound)
            compare = _COMPARISONS[sign]
        except (KeyError, ValueError) as error:
            expected = "'<=', '>=', '<' or '>', a space and a number"
            raise ConfigError(f"goal of {self.bench}: expected {expected}, got {self.goal!r}; write '>= 5'") from error
        return bool(compare(self.value if self.ratio is None else self.ratio, limit))


class Emit(Protocol):
    """What a bench's `run` receives; the caller adds the environment and prints."""

    def __call__(
        self,
        bench: str,
        case: str,
        metric: str,
        value: float,
        unit: str,
        baseline: float | None = None,
        ratio: float | None = None,
        goal: str | None = None,
        min: float | None = None,
        max: float | None = None,
        runs: int = 1,
    ) -> None: ...


def emit_to(receive: Callable[[Record], None]) -> Emit:
    """An `Emit` that completes each figure with the environment and hands it to `receive`."""

    def emit(
        bench: str,
        case: str,
        metric: str,
        value: float,
        unit: str,
        baseline: float | None = None,
        ratio: float | None = None,
        goal: str | None = None,
        min: float | None = None,
        max: float | None = None,
        runs: int = 1,
    ) -> None:
        receive(
            Record(
                bench=bench,
                case=case,
                metric=metric,
                value=value,
                unit=unit,
                baseline=baseline,
                ratio=ratio,
                goal=goal,
                min=min,
                max=max,
                runs=runs,
                environment=environment(),
            )
        )

    return emit


def emit_json(stream: TextIO = sys.stdout) -> Emit:
    """An `Emit` that writes JSON lines, each flushed so that a reader sees it at once."""

    def receive(record: Record) -> None:
        print(record.to_json(), file=stream, flush=True)

    return emit_to(receive)


@dataclass(frozen=True)
class Timing:
    """Seconds of one function over `runs` repetitions."""

    median: float
    min: float
    max: float
    runs: int


def measure(fns: Mapping[str, Callable[[], object]], runs: int = 5, warmup: int = 1) -> dict[str, Timing]:
    """Seconds of each function, called in turn: every round calls all of them once, so that drift hits all alike.

    Args:
        fns: name to function. On a GPU the function must synchronise before it returns.
        runs: measured rounds.
        warmup: rounds before the measured ones.

    Raises:
        ConfigError: `runs` below 1.
    """
    if runs < 1:
        raise ConfigError(f"bench: expected at least 1 run, got {runs}; 5 gives a usable median")
    seconds: dict[str, list[float]] = {name: [] for name in fns}
    for round_index in range(-warmup, runs):
        for name, fn in fns.items():
            start = time.perf_counter()
            fn()
            elapsed = time.perf_counter() - start
            if round_index >= 0:
                seconds[name].append(elapsed)
    return {name: Timing(statistics.median(got), min(got), max(got), runs) for name, got in seconds.items()}


def emit_rate(
    emit: Emit, bench: str, case: str, metric: str, rows: int, ours: Timing, other: Timing, goal: str | None
) -> None:
    """Rows per second of a form, and how many times faster it is than another that was timed in turn with it."""
    emit(
        bench,
        case,
        metric,
        rows / ours.median,
        "1/s",
        baseline=rows / other.median,
        ratio=other.median / ours.median,
        goal=goal,
        min=rows / ours.max,
        max=rows / ours.min,
        runs=ours.runs,
    )


@contextmanager
def num_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process on one core while a single-core figure is taken, where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@cache
def environment() -> dict[str, str]:
    """Versions, processor, cores, threads and GPU: what a figure depends on. Imports nothing heavy by itself."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    found |= {"cpu": _processor(), "cores": str(os.cpu_count()), "threads": os.environ.get("OMP_NUM_THREADS", "unset")}
    found["waiting_threads"] = os.environ.get("OMP_WAIT_POLICY", "unset")
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
