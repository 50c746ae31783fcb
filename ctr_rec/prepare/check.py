"""Re-reads a prepared log and verifies that it is what its manifest says. Used at the end of every preparation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ctr_rec.errors import DataError
from ctr_rec.files import join_path, local_file
from ctr_rec.prepare.fingerprint import Fingerprint
from ctr_rec.prepare.vocabulary import COLUMNS
from ctr_rec.prepare.write import Counted, count_rows, flat
from ctr_rec.schema.hashing import hash64
from ctr_rec.schema.log import Feature, Kind, LogSchema, Side
from ctr_rec.schema.manifest import SPLITS, LogManifest, RowGroup, load_manifest


def check(log: str | Path) -> LogManifest:
    """Verifies order, label range, visibility of history, ids inside their tables, counts and the fingerprint.

    Raises:
        DataError: names the file, row group, column and (where there is one) the user row of the first fault.
    """
    manifest = load_manifest(log)
    schema = manifest.data_schema
    fingerprint = Fingerprint(schema, manifest.split, manifest.grown_from)
    positives = {name: np.zeros(3, np.int64) for name in schema.labels}
    users = events = 0
    for group, event_rows, user_rows in row_groups(log, manifest):
        where = f"{group.file}, row group {group.index}"
        counted = _check_group(event_rows, user_rows, manifest, where, users)
        _same(where, "number of users", group.users, event_rows.num_rows)
        _same(where, "number of events", group.events, counted.events)
        _same(where, "first event", group.first_event, events)
        _same(where, "impressions per split", group.impressions, counted.impressions)
        for name, found in counted.positives.items():
            positives[name] += found
        fingerprint.add("events", event_rows)
        fingerprint.add("users", user_rows)
        users, events = users + event_rows.num_rows, events + counted.events
    _same(str(log), "number of users", manifest.users, users)
    _same(str(log), "number of events", manifest.events, events)
    totals = np.array([g.impressions for g in manifest.row_groups]).reshape(-1, 3).sum(axis=0)
    _same(str(log), f"impressions of {' / '.join(SPLITS)}", manifest.impressions, tuple(totals.tolist()))
    for name, found in positives.items():
        _same(str(log), f"positives of label {name!r}", manifest.positives[name], tuple(found.tolist()))
    _check_small(log, manifest, fingerprint)
    if fingerprint.value() != manifest.fingerprint:
        raise DataError(
            f"{log}: the content does not have the manifest's fingerprint (expected {manifest.fingerprint[:12]}..., "
            f"got {fingerprint.value()[:12]}...): a file was changed after it was prepared; prepare the log again"
        )
    return manifest


def row_groups(log: str | Path, manifest: LogManifest) -> Iterator[tuple[RowGroup, pa.Table, pa.Table]]:
    """Each row group of the manifest with its events and users; memory holds one at a time."""
    for file in dict.fromkeys(g.file for g in manifest.row_groups):
        groups = [g for g in manifest.row_groups if g.file == file]
        event_file = _open(log, file)
        user_file = _open(log, file.replace("events/", "users/", 1))
        _same(f"{log}/{file}", "number of row groups", len(groups), event_file.num_row_groups)
        _same(f"{log}/users", "number of row groups", len(groups), user_file.num_row_groups)
        for group in groups:
            yield group, _read(event_file, group.index, file), _read(user_file, group.index, f"users of {file}")


def _open(log: str | Path, file: str) -> pq.ParquetFile:
    path = local_file(join_path(log, file))
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise _broken(file, error) from error


def _read(file: pq.ParquetFile, group: int, name: str) -> pa.Table:
    try:
        return file.read_row_group(group)
    except (pa.ArrowException, OSError) as error:
        raise _broken(name, error) from error


def _broken(file: str, error: Exception) -> DataError:
    return DataError(
        f"{file} is no whole Parquet file ({str(error).splitlines()[0]}); it was truncated or changed: copy it again "
        "or prepare the log again"
    )


def _same(where: str, what: str, expected: object, got: object) -> None:
    if expected != got:
        raise DataError(f"{where}: expected {what} {expected} as the manifest says, got {got}; prepare the log again")


def _fail(where: str, column: str, bad: npt.NDArray[np.bool_], expected: str, rows: pa.Table | None = None) -> None:
    """Raises DataError for the first flat position where `bad` holds."""
    if not bad.any():
        return
    position = int(np.argmax(bad))
    row = ""
    if rows is not None:
        lengths = rows.column("time").combine_chunks().value_lengths().to_numpy(zero_copy_only=False)
        row = f", row {int(np.searchsorted(np.cumsum(lengths), position, side='right'))}"
    raise DataError(
        f"{where}{row}: column {column!r}, value {position}: expected {expected}; the file was changed or written by "
        "another program: prepare the log again"
    )


def _check_group(
    event_rows: pa.Table, user_rows: pa.Table, manifest: LogManifest, where: str, first_user: int
) -> Counted:
    schema = manifest.data_schema
    numbers = np.arange(first_user, first_user + event_rows.num_rows)
    for rows, name in ((event_rows, where), (user_rows, f"users of {where}")):
        got = rows.column("user").to_numpy()
        _fail(name, "user", got[: len(numbers)] != numbers[: len(got)], "consecutive user numbers")
        _same(name, "number of rows", len(numbers), len(got))
    _need(event_rows, [f.name for f in schema.of(Side.EVENT)] + _fixed_columns(schema), where)
    _need(user_rows, ["user_id", *(f.name for f in schema.of(Side.USER))], f"users of {where}")
    lengths = event_rows.column("time").combine_chunks().value_lengths().to_numpy(zero_copy_only=False)
    for name in event_rows.column_names[1:]:
        other = event_rows.column(name).combine_chunks().value_lengths().to_numpy(zero_copy_only=False)
        _fail(where, name, other != lengths, "as many values per user as column 'time' has")
    _check_order(event_rows, lengths, manifest, where)
    _check_values(event_rows, manifest, where)
    for f in schema.of(Side.EVENT):
        _check_feature(event_rows.column(f.name).combine_chunks().flatten(), f, manifest, where, event_rows)
    for f in schema.of(Side.USER):
        _check_feature(user_rows.column(f.name).combine_chunks(), f, manifest, f"users of {where}")
    return count_rows(event_rows, schema, manifest.split)


def _fixed_columns(schema: LogSchema) -> list[str]:
    counters = [f"{c.name}_{part}" for c in schema.counters for part in ("count", "rate")]
    labels = [f"label_{name}" for name in schema.labels]
    return ["time", "request_time", "request", "item", "impression", "action", *labels, *counters]


def _need(rows: pa.Table, columns: list[str], where: str) -> None:
    missing = [c for c in columns if c not in rows.column_names]
    if missing:
        raise DataError(f"{where}: column {', '.join(map(repr, missing))} is missing; prepare the log again")


def _check_order(rows: pa.Table, lengths: npt.NDArray[np.integer], manifest: LogManifest, where: str) -> None:
    """(time, request, item) grow inside a user; a request has one time, no event of it is earlier; none lies apart."""
    schema, split = manifest.data_schema, manifest.split
    time, request, item = flat(rows, "time"), flat(rows, "request"), flat(rows, "item")
    request_time = flat(rows, "request_time")
    user = np.repeat(np.arange(len(lengths)), lengths)
    same_user = user[1:] == user[:-1]
    later = time[1:] > time[:-1]
    tied = time[1:] == time[:-1]
    request_later = request[1:] > request[:-1]
    item_later = (request[1:] == request[:-1]) & (item[1:] >= item[:-1])
    unsorted = same_user & ~(later | (tied & (request_later | item_later)))
    _fail(where, "time", np.append(False, unsorted), "events sorted by (time, request, item) inside a user", rows)
    # known_at = time + action_delay must not lie before the own request, or an impression would see itself.
    _fail(where, "request_time", request_time > time, "a request time no later than the event's own time", rows)
    order = np.lexsort((time, request))
    first = np.append(True, request[order][1:] != request[order][:-1])
    begins = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0)) if len(order) else order
    of_first = order[begins]
    earliest = time[of_first]
    if manifest.context is not None and split.train_start is not None:  # context may begin in the middle of a request
        told = request_time[of_first]
        earliest = np.where(told <= split.train_start, told, earliest)
    wrong = np.zeros(len(time), bool)
    wrong[order] = (request_time[order] != earliest) | (user[order] != user[of_first])
    _fail(where, "request_time", wrong, "the earliest time of its request, the same for all its events", rows)
    assert schema.action_delay >= 0


def _check_values(rows: pa.Table, manifest: LogManifest, where: str) -> None:
    schema = manifest.data_schema
    item, action, impression = flat(rows, "item"), flat(rows, "action"), flat(rows, "impression").astype(bool)
    _fail(where, "item", (item < 0) | (item >= manifest.items), f"a row of items/, below {manifest.items}", rows)
    actions = len(schema.actions)
    _fail(where, "action", (action < 0) | (action >= actions), f"an action code below {actions}", rows)
    for name in schema.labels:
        label = flat(rows, f"label_{name}")
        legal = np.where(impression, (label == 0) | (label == 1), label == -1)
        _fail(where, f"label_{name}", ~legal, "0 or 1 for an impression, -1 for any other event", rows)
    for counter in schema.counters:
        count, mean = flat(rows, f"{counter.name}_count"), flat(rows, f"{counter.name}_rate")
        _fail(where, f"{counter.name}_count", ~(np.isfinite(count) & (count >= 0)), "a count", rows)
        _fail(where, f"{counter.name}_rate", ~((mean >= 0) & (mean <= 1)), "a rate between 0 and 1", rows)
    late = manifest.split.number(flat(rows, "request_time")) >= len(SPLITS)
    _fail(where, "request_time", late, f"nothing after the split's test_end {manifest.split.test_end}", rows)


def _check_feature(
    values: pa.Array, f: Feature, manifest: LogManifest, where: str, rows: pa.Table | None = None
) -> None:
    if f.kind in (Kind.CATEGORY, Kind.CATEGORIES):
        ids = values.flatten() if f.kind is Kind.CATEGORIES else values
        numbers = ids.to_numpy(zero_copy_only=False)
        table = manifest.tables[f.table or ""]
        expected = f"ids of table {f.table!r}, 0 to {table.rows - 1}"
        single = rows if f.kind is Kind.CATEGORY else None
        _fail(where, f.name, (numbers < 0) | (numbers >= table.rows), expected, single)
    elif f.kind in (Kind.NUMBER, Kind.VECTOR):
        numbers = (values.flatten() if f.kind is Kind.VECTOR else values).to_numpy(zero_copy_only=False)
        legal = np.isfinite(numbers) | (np.isnan(numbers) & f.optional)
        _fail(where, f.name, ~legal, "finite numbers", rows if f.kind is Kind.NUMBER else None)


def _check_small(log: str | Path, manifest: LogManifest, fingerprint: Fingerprint) -> None:
    """Items and vocabularies: rows, ids inside tables, no id twice."""
    schema = manifest.data_schema
    items = _whole(log, "items/items.parquet")
    _same("items/items.parquet", "number of items", manifest.items, items.num_rows)
    _need(items, ["item_id", "first_time", *(f.name for f in schema.of(Side.ITEM))], "items/items.parquet")
    for f in schema.of(Side.ITEM):
        _check_feature(items.column(f.name).combine_chunks(), f, manifest, "items/items.parquet")
    fingerprint.add("items", items)
    for name in sorted(manifest.tables):
        file = f"vocabulary/{name}.parquet"
        table = _whole(log, file)
        _need(table, [*COLUMNS], file)
        _same(file, "number of ids", manifest.tables[name].ids, table.num_rows)
        rows = table.column("row").to_numpy()
        limit = manifest.tables[name].rows
        _fail(file, "row", (rows < 0) | (rows >= limit), f"rows of the table, 0 to {limit - 1}")
        if "hash" in table.column_names:
            wrong = table.column("hash").to_numpy() != hash64(table.column("id").to_pylist())
            _fail(file, "hash", wrong, "the stated hash of the id")
        fingerprint.add(f"vocabulary/{name}", table.select([*COLUMNS]))


def _whole(log: str | Path, file: str) -> pa.Table:
    opened = _open(log, file)
    try:
        return opened.read()
    except (pa.ArrowException, OSError) as error:
        raise _broken(file, error) from error
