"""Scaling: impressions per second of two ranks with one thread each over one rank with one thread."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path

from ctr_rec.bench.record import Emit
from ctr_rec.errors import ConfigError
from ctr_rec.sharding.launch import rank_environment

GOAL = ">= 1.6"
RUNS, STEPS, BATCHES = 5, 12, 8
PER_RANK = (512, 2048, 4096)
ROWS, WIDTH = 100_000, 32


def run(emit: Emit, log: Path | None = None, runs: int = RUNS, sizes: tuple[int, ...] = PER_RANK) -> None:
    """Emit, per number of impressions per rank, the speed-up of two ranks. `log` is not used.

    One rank and two ranks take turns, so that a machine that slows down slows both.

    Raises:
        ConfigError: this machine has one core only.
    """
    del log
    if (os.cpu_count() or 1) < 2:
        raise ConfigError("bench scaling needs two cores, this machine has one")
    for impressions in sizes:
        speeds: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(runs):
            for ranks, found in speeds.items():
                found.append(_launch(ranks, impressions))
        one, two = (statistics.median(speeds[ranks]) for ranks in (1, 2))
        emit(
            "scaling",
            f"DIN, table {ROWS:,} x {WIDTH} sharded by row, {impressions:,} impressions per rank, one thread per rank",
            "impressions per second of two ranks",
            two,
            "1/s",
            baseline=one,
            ratio=two / one,
            goal=GOAL if impressions >= 2048 else None,
            min=min(speeds[2]),
            max=max(speeds[2]),
            runs=runs,
        )


def _launch(ranks: int, impressions: int) -> float:
    """Starts the ranks as processes of their own and returns their common speed."""
    with tempfile.TemporaryDirectory() as folder:
        processes = [_start(rank, ranks, impressions, folder) for rank in range(ranks)]
        outputs = [process.communicate() for process in processes]
        for process, (_, errors) in zip(processes, outputs, strict=True):
            if process.returncode:
                raise RuntimeError(f"a rank of the scaling bench ended with {process.returncode}:\n{errors}")
    return float(outputs[0][0].split()[-1])


def _start(rank: int, ranks: int, impressions: int, folder: str) -> subprocess.Popen[str]:
    environment = {**os.environ, **rank_environment(rank, ranks), "OMP_NUM_THREADS": "1"}
    code = f"from ctr_rec.bench.scaling import rank_speed; print(rank_speed({impressions}, 'file://{folder}/store'))"
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=pipe, stderr=pipe, text=True)


def rank_speed(impressions: int, meeting: str) -> float:
    """Impressions per second over all ranks, first steps left out. Runs in a process of its own on every rank."""
    import torch

    from ctr_rec.bench.synthetic import CHANNEL, Shape, item_batch, item_spec
    from ctr_rec.bench.tables import step
    from ctr_rec.models.baselines.din import DINConfig
    from ctr_rec.models.ranker import Ranker
    from ctr_rec.sharding.group import open_group
    from ctr_rec.sharding.parallelize import parallelize
    from ctr_rec.sharding.plan import ShardingConfig

    torch.set_num_threads(1)
    shape = Shape(impressions=impressions, users=max(1, impressions // 8), distinct=4 * impressions)
    spec = item_spec(ROWS, WIDTH)
    tables = [t.model_copy(update={"sharding": "row_wise"}) for t in spec.tables]
    with open_group("cpu", init_method=meeting) as group:
        parallel = parallelize(Ranker(spec, DINConfig(), (CHANNEL,)), tables, ShardingConfig(), group)
        dense = torch.optim.AdamW(parallel.dense_parameters.values(), lr=1e-3)
        seeds = range(group.index * BATCHES, (group.index + 1) * BATCHES)
        batches = cycle([item_batch(shape, ROWS, seed, impressions * group.size) for seed in seeds])
        for _ in range(3):
            step(parallel, dense, next(batches))
        group.barrier()
        start = time.perf_counter()
        for _ in range(STEPS):
            step(parallel, dense, next(batches))
        group.barrier()
        return impressions * group.size * STEPS / (time.perf_counter() - start)
