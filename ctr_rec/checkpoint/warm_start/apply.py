"""A warm start from its config to filled shards, on all ranks; or only its report, from ids alone.

Every step that may fail on one rank is made on all of them together, so that none waits for one that is gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ctr_rec.checkpoint.warm_start.config import WarmStart
from ctr_rec.checkpoint.warm_start.dense import dense_tensors, load_dense, plan_dense
from ctr_rec.checkpoint.warm_start.fill import fill
from ctr_rec.checkpoint.warm_start.moments import clear_state, state_shards
from ctr_rec.checkpoint.warm_start.new_rows import ExactSums, fill_new, matched_sums
from ctr_rec.checkpoint.warm_start.opening import open_source
from ctr_rec.checkpoint.warm_start.plan import Planned, plan_tables
from ctr_rec.checkpoint.warm_start.report import TableReport, WarmStartReport
from ctr_rec.checkpoint.warm_start.target import TargetTable
from ctr_rec.schema.manifest import LogManifest
from ctr_rec.sharding.agreement import on_each
from ctr_rec.sharding.group import Group
from ctr_rec.sharding.parallelize import Parallel
from ctr_rec.sharding.tables import LocalShard, OptimizerKind, local_shards

SAMPLED_ROWS = 1 << 16


def warm_start(
    config: WarmStart,
    parallel: Parallel,
    tables: Sequence[TargetTable],
    manifest: LogManifest,
    kind: OptimizerKind,
) -> WarmStartReport:
    """Fills tables of a fresh model. A collective; every rank returns the same report.

    Args:
        tables: ours; others of the model stay as they are. manifest: of our log. kind: of the tables' optimizer.

    Raises:
        ConfigError, CheckpointError, DataError: on all ranks alike; the model may be half filled then.
    """
    shards: dict[str, list[LocalShard]] = {t.name: [] for t in tables}
    for shard in local_shards(parallel.model):
        if shard.table in shards:
            shards[shard.table].append(shard)
    group = parallel.group
    source = on_each(group, lambda: open_source(config, group))
    planned, report = plan_tables(config, source, tables, manifest, kind, shards, group)
    live = dense_tensors(parallel.model)
    dense = on_each(group, lambda: plan_dense({n: tuple(v.shape) for n, v in live.items()}, source, config.dense))
    done = []
    for plan in planned:
        on_each(group, lambda plan=plan: _write(plan, parallel))
        done.append(_finish(plan, report.table(plan.table.name), group))
    on_each(group, lambda: load_dense(parallel.model, source, dense))
    scales = tuple(w for plan, table in zip(planned, done, strict=True) if (w := _scale_doubt(plan, table)))
    by_name = {table.table: table for table in done}
    return report.model_copy(
        update={
            "tables": tuple(by_name.get(t.table, t) for t in report.tables),
            "dense": dense,
            "warnings": (*report.warnings, *scales),
        }
    )


def dry_run(
    config: WarmStart,
    tables: Sequence[TargetTable],
    manifest: LogManifest,
    kind: OptimizerKind,
    dense: Mapping[str, tuple[int, ...]],
    group: Group,
) -> WarmStartReport:
    """The report of a warm start that is not made: ids are read, vectors are not. dense: our weights' shapes."""
    source = on_each(group, lambda: open_source(config, group))
    _, report = plan_tables(config, source, tables, manifest, kind, None, group)
    return report.model_copy(update={"dense": plan_dense(dense, source, config.dense), "dry_run": True})


def _write(plan: Planned, parallel: Parallel) -> None:
    name = plan.table.name
    if plan.shards:
        fill(plan.shards, plan.pairs, plan.source.vectors, plan.width.apply, name)
    state = state_shards(parallel.fused_optimizer, name)
    clear_state(state)
    if plan.state.reader is not None and state:
        fill(state, plan.pairs, plan.state.reader, plan.state.change, name)


def _finish(plan: Planned, report: TableReport, group: Group) -> TableReport:
    """The mean of matched rows into new ones, and the scale of what was written."""
    sums = ExactSums(plan.table.dim)
    stride = 1 if plan.settings.new_rows == "mean" else max(1, plan.table.rows // SAMPLED_ROWS)

    def add() -> None:
        if _holds_own_columns(plan):
            matched_sums(plan.shards, plan.pairs, sums, stride, plan.table.name)

    on_each(group, add)
    mean, rms = sums.over_ranks(group)
    if plan.settings.new_rows == "mean":
        fill_new(plan.shards, plan.pairs, mean)
    return report.model_copy(update={"rms": rms})


def _holds_own_columns(plan: Planned) -> bool:
    """Column pieces of the same rows are other numbers; whole copies of the table are the same ones again."""
    return plan.counted or any(s.weight.shape[1] < plan.table.dim for s in plan.shards)


def _scale_doubt(plan: Planned, report: TableReport) -> str:
    ratio = (report.rms or 0.0) / plan.table.init_std
    if 1 / plan.settings.scale <= ratio <= plan.settings.scale:
        return ""
    return (
        f"table {plan.table.name}: matched rows have a root mean square of {report.rms:.3g}, the initialiser's is "
        f"{plan.table.init_std:.3g}: a source of another scale, or not yet trained; set embedding.tables."
        f"{plan.table.name}.init_std or warm_start.tables.{plan.table.name}.scale"
    )
