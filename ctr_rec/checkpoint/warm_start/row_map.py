"""Which source row each of our rows takes: the one question that every kind of ids comes down to.

Legend: O ids of ours, P pairs (our row, source row), R rows of ours from `low` on.
"""

from __future__ import annotations

import filecmp
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from ctr_rec.checkpoint.warm_start.config import Buckets, HashedIds, TableWarmStart
from ctr_rec.checkpoint.warm_start.id_index import IdIndex
from ctr_rec.checkpoint.warm_start.id_rule import IdRule
from ctr_rec.checkpoint.warm_start.id_stream import IdStream
from ctr_rec.checkpoint.warm_start.rows import Int64
from ctr_rec.checkpoint.warm_start.target import TargetIds, TargetTable
from ctr_rec.errors import CheckpointError
from ctr_rec.schema.hashing import hashed_rows


class Counts(NamedTuple):
    """What adds up over ranks. rows_*: our rows, row 0 aside. seen_*: training occurrences in our log, `seen_unknown`
    of them in row 0. source_seen: occurrences that the source states for the ids that matched."""

    rows_matched: int = 0
    rows_new: int = 0
    seen_matched: int = 0
    seen_new: int = 0
    seen_unknown: int = 0
    source_seen: int = 0


@dataclass(frozen=True)
class RowMap:
    """Pairs ascending by source row.

    target_P: rows of our whole table. source_P: rows of the source's. sources_P: how many pairs our row has, None
    where it is one everywhere. matched_R: bool, rows that an id led to a source row. carried: row 0 is among the pairs.
    source_total: occurrences that the source states for all of its ids, None where it states none.
    """

    target_P: Int64
    source_P: Int64
    sources_P: Int64 | None
    matched_R: npt.NDArray[np.bool_]
    low: int
    carried: bool
    counts: Counts
    source_total: int | None = None
    examples: tuple[str, ...] = ()

    def matched_sources(self) -> Int64:
        """Source rows that an id of ours led to, with repeats."""
        inside = self.target_P > 0
        inside[inside] = self.matched_R[self.target_P[inside] - self.low]
        return self.source_P[inside]


class _Pairs(NamedTuple):
    """own_P: positions in our ids. source_P: rows. seen_P: occurrences that the source states, or None."""

    own_P: Int64
    source_P: Int64
    seen_P: Int64 | None = None
    total: int | None = None
    examples: tuple[str, ...] = ()


def row_map(table: TargetTable, ids: TargetIds, rule: IdRule, settings: TableWarmStart, carry: bool) -> RowMap:
    """The rows of [ids.low, ids.high).

    ids: their text may be absent where `is_ours` says so. carry: row 0 comes from the source's row 0.

    Raises:
        CheckpointError: an id twice in the source, several source rows for one of ours without `many_to_one`.
    """
    hashed = rule.hashed if rule.mapped is None else None
    if hashed is not None and table.hash_rows is not None and table.hash_rows % (hashed.rows or 1) == 0:
        return _by_arithmetic(ids, hashed, carry)
    if is_ours(table, rule):
        return _as_they_are(ids, carry)
    pairs = _pairs(ids.ids, rule)
    target_P = ids.rows[pairs.own_P]
    matched_R = np.zeros(ids.high - ids.low, bool)
    matched_R[target_P - ids.low] = True
    met_O = np.zeros(len(ids.rows), bool)
    met_O[pairs.own_P] = True
    weight_P = pairs.seen_P if pairs.seen_P is not None else ids.counts[pairs.own_P]
    target_P, source_P, sources_P = _reduced(table, ids, target_P, pairs, weight_P, settings.many_to_one)
    counts = _counts(ids, matched_R, met_O, 0 if pairs.seen_P is None else int(pairs.seen_P.sum()))
    if settings.buckets is not None:
        extra_target, extra_source = _bucket_pairs(ids, matched_R, settings.buckets)
        target_P, source_P = np.concatenate([target_P, extra_target]), np.concatenate([source_P, extra_source])
        if sources_P is not None:
            sources_P = np.concatenate([sources_P, np.ones(len(extra_target), np.int64)])
    return _finished(
        target_P, source_P, sources_P, matched_R, ids, carry, counts, total=pairs.total, examples=pairs.examples
    )


def _finished(
    target_P: Int64,
    source_P: Int64,
    sources_P: Int64 | None,
    matched_R: npt.NDArray[np.bool_],
    ids: TargetIds,
    carry: bool,
    counts: Counts,
    total: int | None = None,
    examples: tuple[str, ...] = (),
) -> RowMap:
    """Adds row 0 and sorts by source row."""
    carried = carry and ids.low == 0 and ids.high > 0
    if carried:
        zero = np.zeros(1, np.int64)
        target_P, source_P = np.concatenate([zero, target_P]), np.concatenate([zero, source_P])
        sources_P = None if sources_P is None else np.concatenate([zero + 1, sources_P])
    if len(source_P) and not bool((np.diff(source_P) >= 0).all()):
        order = np.argsort(source_P, kind="stable")
        target_P, source_P = target_P[order], source_P[order]
        sources_P = None if sources_P is None else sources_P[order]
    return RowMap(target_P, source_P, sources_P, matched_R, ids.low, carried, counts, total, examples)


def _by_arithmetic(ids: TargetIds, hashed: HashedIds, carry: bool) -> RowMap:
    """hash mod n is known from hash mod m where n divides m: no id is needed."""
    assert hashed.rows is not None
    target_P = np.arange(max(ids.low, 1), ids.high)
    source_P = hashed.first + (target_P - 1) % hashed.rows
    matched_R = np.ones(ids.high - ids.low, bool)
    matched_R[: len(matched_R) - len(target_P)] = False
    counts = _counts(ids, matched_R, np.ones(len(ids.rows), bool), 0)
    return _finished(target_P, source_P, None, matched_R, ids, carry, counts)


def _counts(ids: TargetIds, matched_R: npt.NDArray[np.bool_], met_O: npt.NDArray[np.bool_], source_seen: int) -> Counts:
    rows = ids.high - max(ids.low, 1) if ids.high > ids.low else 0
    matched = int(matched_R.sum())
    seen = int(ids.counts[met_O].sum())
    return Counts(matched, rows - matched, seen, int(ids.counts.sum()) - seen, ids.unknown, source_seen)


def _pairs(ids: pl.Series, rule: IdRule) -> _Pairs:
    if rule.mapped is None:
        return _plain(ids, rule)
    index, examples = IdIndex(ids), ()
    own, rows, names = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [pl.Series([], dtype=pl.String)]
    for batch in rule.mapped.read():
        own_P, at_P = index.find(batch.ids)
        examples = examples or tuple(batch.ids[:3].to_list())
        own.append(own_P)
        rows.append(batch.rows[at_P])
        if batch.targets is not None:
            names.append(batch.targets.gather(at_P))
    own_P = np.concatenate(own)
    if rule.stream is None and rule.hashed is None:
        return _Pairs(own_P, np.concatenate(rows), examples=examples)
    below = _plain(pl.concat(names), rule)
    return _Pairs(own_P[below.own_P], below.source_P, below.seen_P, below.total, examples)


def _as_they_are(ids: TargetIds, carry: bool) -> RowMap:
    matched_R = np.zeros(ids.high - ids.low, bool)
    matched_R[ids.rows - ids.low] = True
    counts = _counts(ids, matched_R, np.ones(len(ids.rows), bool), 0)
    return _finished(ids.rows, ids.rows, None, matched_R, ids, carry, counts)


def is_ours(table: TargetTable, rule: IdRule) -> bool:
    """Whether the source's vocabulary is ours byte for byte (another tower on the same log): its rows are ours."""
    path = rule.vocabulary
    return path is not None and table.hash_rows is None and filecmp.cmp(path, table.vocabulary, shallow=False)


def _plain(ids: pl.Series, rule: IdRule) -> _Pairs:
    if rule.hashed is not None:
        assert rule.hashed.rows is not None
        rows = hashed_rows(ids.to_list(), rule.hashed.rows, rule.hashed.first)
        return _Pairs(np.arange(len(ids)), rows)
    assert rule.stream is not None
    return _by_stream(ids, rule.stream)


def _by_stream(ids: pl.Series, stream: IdStream) -> _Pairs:
    index = IdIndex(ids)
    own, rows, seen, total = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    counted, examples = True, ()
    for batch in stream.read():
        own_P, at_P = index.find(batch.ids)
        own.append(own_P)
        rows.append(batch.rows[at_P])
        examples = examples or tuple(batch.ids[:3].to_list())
        if batch.counts is None:
            counted = False
        else:
            seen.append(batch.counts[at_P])
            total += int(batch.counts.sum())
    own_P, rows_P = np.concatenate(own), np.concatenate(rows)
    _check_once(ids, own_P, rows_P, stream.where)
    return _Pairs(own_P, rows_P, np.concatenate(seen) if counted else None, total if counted else None, examples)


def _check_once(ids: pl.Series, own_P: Int64, rows_P: Int64, where: str) -> None:
    """An id of ours that stands twice in a source has no vector of its own there."""
    times = np.bincount(own_P, minlength=1)
    if times.max() > 1:
        own = int(np.argmax(times > 1))
        rows = rows_P[own_P == own]
        raise CheckpointError(
            f"{where}: id {ids[own]!r} occurs {len(rows)} times, with rows {rows[0]} and {rows[1]}; keep one, since "
            "nothing says which vector is its own"
        )


def _reduced(
    table: TargetTable, ids: TargetIds, target_P: Int64, pairs: _Pairs, weight_P: Int64, rule: str
) -> tuple[Int64, Int64, Int64 | None]:
    """One source row for each of ours, or all of them with their number for a mean."""
    if len(target_P) == 0 or int(np.bincount(target_P - ids.low).max()) == 1:
        return target_P, pairs.source_P, None
    order = np.lexsort((pairs.source_P, target_P))
    target_P, source_P, weight_P = target_P[order], pairs.source_P[order], weight_P[order]
    first = np.concatenate([[True], (np.diff(target_P) != 0) | (np.diff(source_P) != 0)])
    weight = np.add.reduceat(weight_P, np.flatnonzero(first))
    target_P, source_P = target_P[first], source_P[first]
    _, starts, sizes = np.unique(target_P, return_index=True, return_counts=True)
    if sizes.max() == 1:
        return target_P, source_P, None
    if rule == "refuse":
        _refuse_many(table, ids, pairs, int(target_P[starts[np.argmax(sizes)]]), int((sizes > 1).sum()))
    if rule == "mean":
        return target_P, source_P, np.repeat(sizes, sizes)
    # Falling weight, then the lower source row: the first of each of our rows is kept.
    order = np.lexsort((source_P, -weight, target_P))
    return target_P[starts], source_P[order][starts], None


def _refuse_many(table: TargetTable, ids: TargetIds, pairs: _Pairs, row: int, rows: int) -> None:
    its = np.flatnonzero(ids.rows[pairs.own_P] == row)[:4]
    said = ", ".join(f"{ids.ids[int(pairs.own_P[i])]!r} from source row {pairs.source_P[i]}" for i in its)
    raise CheckpointError(
        f"table {table.name}: {rows} of its rows would take several source rows, row {row} for one: {said}; set "
        f"warm_start.tables.{table.name}.many_to_one to most_frequent or mean"
    )


def _bucket_pairs(ids: TargetIds, matched_R: npt.NDArray[np.bool_], buckets: Buckets) -> tuple[Int64, Int64]:
    """For each row without a match, the bucket of its most frequent id (the first by text among equals)."""
    new = np.flatnonzero(~matched_R[ids.rows - ids.low])
    frame = pl.DataFrame({"id": ids.ids.gather(new), "row": ids.rows[new], "count": ids.counts[new]})
    frame = frame.sort(["row", "count", "id"], descending=[False, True, False])
    frame = frame.unique("row", keep="first", maintain_order=True)
    return frame["row"].to_numpy(), hashed_rows(frame["id"].to_list(), buckets.rows, buckets.first)
