"""What happens to each of our tables: which rows from where, what becomes of widths and state. Reads ids only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ctr_rec.checkpoint.warm_start.config import TableWarmStart, WarmStart
from ctr_rec.checkpoint.warm_start.id_rule import IdRule, id_rule
from ctr_rec.checkpoint.warm_start.moments import Carried, carried_state
from ctr_rec.checkpoint.warm_start.report import TableReport, WarmStartReport
from ctr_rec.checkpoint.warm_start.row_map import Counts, RowMap, is_ours, row_map
from ctr_rec.checkpoint.warm_start.seen_times import check_times, trained_until
from ctr_rec.checkpoint.warm_start.source import Source, SourceTable
from ctr_rec.checkpoint.warm_start.target import TargetTable, target_ids
from ctr_rec.checkpoint.warm_start.widths import Widening, widening
from ctr_rec.errors import CheckpointError, ConfigError
from ctr_rec.schema.manifest import LogManifest
from ctr_rec.sharding.agreement import on_each
from ctr_rec.sharding.group import Group
from ctr_rec.sharding.tables import LocalShard, OptimizerKind

SLICE = 1 << 24


@dataclass(frozen=True)
class Planned:
    """What happens to one table on this rank. counted: this rank's rows are not also counted by a lower one."""

    table: TargetTable
    source: SourceTable
    settings: TableWarmStart
    rule: IdRule
    width: Widening
    state: Carried
    pairs: RowMap
    shards: tuple[LocalShard, ...]
    counted: bool


def plan_tables(
    config: WarmStart,
    source: Source,
    tables: Sequence[TargetTable],
    manifest: LogManifest,
    kind: OptimizerKind,
    shards: Mapping[str, Sequence[LocalShard]] | None,
    group: Group,
) -> tuple[list[Planned], WarmStartReport]:
    """Row maps of all tables, and the report as far as ids tell it. shards None: as if this rank held every row."""
    _check_names(config, tables)
    until = trained_until(config, source, manifest)
    doubts = on_each(group, lambda: check_times(config, until, manifest))
    planned, reports = [], []
    for table in tables:
        found = on_each(group, lambda table=table: _source_table(config, source, table))
        if found is None:
            why = "skipped, as asked" if table.name in config.skip else "not in the source"
            reports.append(TableReport(table=table.name, rows=table.rows, new=table.rows - 1, left_alone=why))
            continue
        mine = None if shards is None else shards[table.name]
        plan = _plan_table(config, source, table, found, kind, mine, group)
        planned.append(plan)
        reports.append(_table_report(plan, source, group))
    if not planned:
        raise CheckpointError(
            f"{source.path} has none of our tables ({', '.join(t.name for t in tables)}); it has {source.offered('')}; "
            "set warm_start.tables.<ours>.source to its name there"
        )
    step = source.manifest.step if source.manifest is not None else None
    report = WarmStartReport(
        source=source.path,
        kind=source.kind,
        step=step,
        trained_until=until,
        tables=tuple(reports),
        warnings=tuple(doubts),
    )
    return planned, report


def _check_names(config: WarmStart, tables: Sequence[TargetTable]) -> None:
    names = {t.name for t in tables}
    for what, given in (("tables", config.tables), ("skip", config.skip)):
        unknown = sorted(set(given) - names)
        if unknown:
            raise ConfigError(f"warm_start.{what} names {', '.join(unknown)}; the model has {', '.join(sorted(names))}")


def _source_table(config: WarmStart, source: Source, table: TargetTable) -> SourceTable | None:
    if table.name in config.skip:
        return None
    name = config.of(table.name).source or table.name
    found = source.find(name)
    if found is None and table.name in config.tables:
        raise CheckpointError(
            f"{source.path} has no table {name!r}, which warm_start.tables.{table.name} asks for; it has "
            f"{source.offered(name)}"
        )
    return found


def _plan_table(
    config: WarmStart,
    source: Source,
    table: TargetTable,
    found: SourceTable,
    kind: OptimizerKind,
    shards: Sequence[LocalShard] | None,
    group: Group,
) -> Planned:
    settings = config.of(table.name)
    low, high = (0, table.rows) if shards is None else _range(shards)
    ranges = group.all_gather_object((low, high))
    counted = high > low and (low, high) not in ranges[: group.index]
    share = (0, 1) if shards is None else (group.index, group.size)

    def plan() -> Planned:
        rule = id_rule(settings.ids, source, found, config, share)
        width = widening(table.name, found.vectors.width, table.dim, settings)
        state = carried_state(table.name, found, kind, width, table.dim, settings)
        _check_buckets(settings, table, found)
        carry = source.manifest is not None
        ids = target_ids(table, low, high, text=not is_ours(table, rule))
        pairs = row_map(table, ids, rule, settings, carry)
        if len(pairs.source_P) and pairs.source_P[-1] >= found.rows:
            raise CheckpointError(
                f"table {table.name}: {rule.words} has row {pairs.source_P[-1]}, but table {found.name!r} of "
                f"{source.path} has {found.rows} rows: they do not belong together"
            )
        return Planned(table, found, settings, rule, width, state, pairs, tuple(shards or ()), counted)

    planned = on_each(group, plan)
    return planned


def _check_buckets(settings: TableWarmStart, table: TargetTable, found: SourceTable) -> None:
    buckets = settings.buckets
    if buckets is not None and buckets.first + buckets.rows > found.rows:
        raise ConfigError(
            f"warm_start.tables.{table.name}.buckets: rows {buckets.first} to {buckets.first + buckets.rows - 1}, but "
            f"the source's table has {found.rows} rows"
        )


def _range(shards: Sequence[LocalShard]) -> tuple[int, int]:
    """Rows that this rank's pieces hold; pieces of one table differ in columns only."""
    ranges = {(s.offset[0], s.offset[0] + s.weight.shape[0]) for s in shards}
    assert len(ranges) <= 1, f"pieces of table {shards[0].table} hold rows {sorted(ranges)}"
    return ranges.pop() if ranges else (0, 0)


def _table_report(plan: Planned, source: Source, group: Group) -> TableReport:
    """Adds over ranks; raises where nothing matches."""
    mine = plan.pairs.counts if plan.counted else Counts()
    total = Counts(*group.all_reduce_sum(torch.tensor(mine, dtype=torch.int64)).tolist())
    table, found = plan.table, plan.source
    if total.rows_matched == 0:
        raise CheckpointError(_nothing_matches(plan, source, group))
    seen = total.seen_matched + total.seen_new + total.seen_unknown
    one_to_one = plan.rule.stream is not None and plan.rule.mapped is None and table.hash_rows is None
    used = total.rows_matched if one_to_one else _used_rows(plan, found.rows, group)
    change = [plan.width.words, f"{_dtype(plan)} to float32" if _dtype(plan) != "float32" else ""]
    theirs = max((t for t in group.all_gather_object(plan.pairs.source_total) if t is not None), default=None)
    return TableReport(
        table=table.name,
        rows=table.rows,
        source=found.name,
        ids=plan.rule.words,
        source_rows=found.rows,
        matched=total.rows_matched,
        new=total.rows_new,
        dropped=found.rows - used - len(plan.rule.no_ids),
        seen_matched=total.seen_matched / seen if seen else None,
        seen_new=total.seen_new / seen if seen else None,
        seen_unknown=total.seen_unknown / seen if seen else None,
        dropped_share=1 - total.source_seen / theirs if theirs else None,
        dim=found.vectors.width,
        dtype=_dtype(plan),
        change=", ".join(part for part in change if part),
        row_zero="carried" if source.manifest is not None else "by initialiser",
        new_rows={"initialiser": "by initialiser", "mean": "mean of matched", "bucket": "the source's bucket"}[
            plan.settings.new_rows
        ],
        optimizer_state=plan.state.words,
    )


def _dtype(plan: Planned) -> str:
    return str(plan.source.vectors.dtype).removeprefix("torch.")


def _nothing_matches(plan: Planned, source: Source, group: Group) -> str:
    ids = group.all_gather_object(target_ids(plan.table, plan.pairs.low, plan.pairs.low + 8).ids[:3].to_list())
    ours = ", ".join(repr(i) for i in next((found for found in ids if found), []))
    theirs = ", ".join(repr(i) for i in plan.pairs.examples)
    return (
        f"table {plan.table.name}: no id of ours is in table {plan.source.name!r} of {source.path} "
        f"({plan.rule.words}). Ours look like {ours or 'nothing'}, the source's like {theirs or 'nothing'}; expected "
        "the same text for the same id: check the vocabulary, or bring ids together with a map, or set warm_start.skip"
    )


def _used_rows(plan: Planned, rows: int, group: Group) -> int:
    """Distinct source rows that ids of ours led to, over all ranks; a slice of the source's table at a time."""
    mine = plan.pairs.matched_sources() if plan.counted else np.zeros(0, np.int64)
    used = 0
    for start in range(0, rows, SLICE):
        low, high = np.searchsorted(mine, [start, start + SLICE])
        marks = np.zeros(min(SLICE, rows - start), np.int32)
        marks[mine[low:high] - start] = 1
        used += int((group.all_reduce_sum(torch.from_numpy(marks)) > 0).sum())
    return used
