"""Tables: does a step take longer because the table is larger? Same distinct ids per step, 1 and 20 million rows."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from ctr_rec.batch.batch import Batch
from ctr_rec.bench.record import Emit, Timing, measure
from ctr_rec.bench.synthetic import CHANNEL, Shape, item_batch, item_spec
from ctr_rec.errors import ConfigError
from ctr_rec.layers.embedding import SparseFront
from ctr_rec.models.baselines.din import DINConfig
from ctr_rec.models.ranker import Ranker
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.sharding.parallelize import Parallel, parallelize
from ctr_rec.sharding.plan import ShardingConfig, check_memory, memory_per_rank

SMALL, LARGE, WIDTH = 1_000_000, 20_000_000, 64
GOAL = "<= 1.2"
BATCHES = 8
STEPS_PER_RUN = 3


def run(emit: Emit, log: Path | None = None, large: int = LARGE, small: int = SMALL, runs: int = 7) -> None:
    """Emit the ratio for a whole training step of DIN, and for look-up and update alone. `log` is not used.

    Raises:
        ConfigError: this machine has no room for the large table.
    """
    del log
    shape = Shape()
    with open_group("cpu") as group:
        _check_room(group, large)
        parallels = {rows: _model(rows, group) for rows in (small, large)}
        steps = {rows: _training_step(parallels[rows], rows, shape) for rows in parallels}
        _emit(emit, "training step of DIN", shape, measure(_named(steps), runs=runs), small, large, GOAL)
        moves = {rows: _table_step(parallels[rows], rows, shape) for rows in parallels}
        _emit(emit, "look-up and update alone", shape, measure(_named(moves), runs=runs), small, large, None)


def _check_room(group: Group, rows: int) -> None:
    config = ShardingConfig(reserve=0.05)
    try:
        check_memory(item_spec(rows, WIDTH).tables, config, group.size, memory_per_rank(group.device, 1))
    except ConfigError as error:
        raise ConfigError(f"bench tables holds {rows:,} rows of width {WIDTH} in memory: {error}") from error


def _model(rows: int, group: Group) -> Parallel:
    torch.manual_seed(0)
    spec = item_spec(rows, WIDTH)
    return parallelize(Ranker(spec, DINConfig(), (CHANNEL,)), spec.tables, ShardingConfig(), group)


def _training_step(parallel: Parallel, rows: int, shape: Shape) -> Callable[[], object]:
    batches = cycle([item_batch(shape, rows, seed) for seed in range(BATCHES)])
    dense = torch.optim.AdamW(parallel.dense_parameters.values(), lr=1e-3)
    return lambda: [step(parallel, dense, next(batches)) for _ in range(STEPS_PER_RUN)]


def step(parallel: Parallel, dense: torch.optim.Optimizer, batch: Batch) -> None:
    """A training step as the trainer takes it, without its records."""
    dense.zero_grad()
    losses = binary_cross_entropy_with_logits(parallel.model(batch), batch.label, reduction="none")
    ((losses * batch.weight).sum() * parallel.group.size / batch.global_impressions).backward()
    dense.step()
    parallel.fused_optimizer.step()


def _table_step(parallel: Parallel, rows: int, shape: Shape) -> Callable[[], object]:
    front = parallel.module.front
    assert isinstance(front, SparseFront)
    ((name, collection),) = front.collections.items()
    batches = cycle([item_batch(shape, rows, seed).rows_input(front.tables[name]) for seed in range(BATCHES)])

    def once() -> None:
        values = collection(next(batches))["item"].values()
        values.backward(torch.full_like(values, 1e-3))

    return lambda: [once() for _ in range(10 * STEPS_PER_RUN)]


def _named(functions: dict[int, Callable[[], object]]) -> dict[str, Callable[[], object]]:
    return {str(rows): function for rows, function in functions.items()}


def _emit(
    emit: Emit, what: str, shape: Shape, times: dict[str, Timing], small: int, large: int, goal: str | None
) -> None:
    ours, base = times[str(large)], times[str(small)]
    emit(
        "tables",
        f"{what}, {WIDTH} wide, {shape.distinct:,} distinct ids a step, {large:,} against {small:,} rows",
        "time over time of the small table",
        ours.median / base.median,
        "x",
        goal=goal,
        min=ours.min / base.max,
        max=ours.max / base.min,
        runs=ours.runs,
    )
