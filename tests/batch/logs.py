"""Small prepared logs, written row by row as schema/manifest.py documents: for tests of the reader and of leaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctr_rec.schema.hashing import hash64
from ctr_rec.schema.log import Counter, Feature, Kind, Known, LogSchema, Side, Split, Vocabulary
from ctr_rec.schema.manifest import MANIFEST, LogManifest, NumberInfo, RowGroup, TableInfo

Row = Mapping[str, Any]

TABLES = {"item": 40, "genre": 7, "tab": 5, "gender": 3}
SPLIT = Split(train_end=600, valid_end=800)


def schema(action_delay: int = 0) -> LogSchema:
    """Every kind of feature on every side where it may stand; `genre` is read by items and by events."""
    return LogSchema(
        name="small",
        action_delay=action_delay,
        features=(
            Feature(name="gender", kind=Kind.CATEGORY, side=Side.USER, table="gender"),
            Feature(name="likes", kind=Kind.CATEGORIES, side=Side.USER, table="gender"),
            Feature(name="age", kind=Kind.NUMBER, side=Side.USER),
            Feature(name="film", kind=Kind.CATEGORY, side=Side.ITEM, table="item"),
            Feature(name="genres", kind=Kind.CATEGORIES, side=Side.ITEM, table="genre"),
            Feature(name="price", kind=Kind.NUMBER, side=Side.ITEM, log1p=True),
            Feature(name="content", kind=Kind.VECTOR, side=Side.ITEM, dim=3),
            Feature(name="title", kind=Kind.TEXT, side=Side.ITEM),
            Feature(name="tab", kind=Kind.CATEGORY, side=Side.EVENT, table="tab"),
            Feature(name="topics", kind=Kind.CATEGORIES, side=Side.EVENT, table="genre"),
            Feature(name="dwell", kind=Kind.NUMBER, side=Side.EVENT, known=Known.ACTION),
        ),
        vocabularies=tuple(Vocabulary(table=t) for t in TABLES),
        actions=("none", "like", "dislike"),
        labels=("liked",),
        counters=(Counter(name="item_like", by="item", label="liked"),),
    )


def random_items(seed: int, count: int = 39) -> list[dict[str, Any]]:
    """Item i has row i + 1 of table `item`; some have no genre."""
    random = np.random.default_rng([seed, 1])
    return [
        {
            "film": i + 1,
            "genres": random.integers(0, 7, random.integers(0, 4)).tolist(),
            "price": float(random.integers(0, 100)),
            "content": random.normal(size=3).tolist(),
            "title": f"item {i}",
        }
        for i in range(count)
    ]


def random_users(
    seed: int, count: int = 12, longest: int = 40, impressions: float = 0.7, span: int = 1000
) -> list[dict[str, Any]]:
    """Users with ties in time, interleaved requests, events that are no impression, and some without any event.

    `dwell` tells every event from every other.
    """
    random = np.random.default_rng([seed, 2])
    users = []
    for u in range(count):
        length = 0 if u % 5 == 3 else int(random.integers(1, longest + 1))
        times = np.sort(random.integers(0, span, length) // 3 * 3)
        requests = np.repeat(np.arange(length), random.integers(1, 4, length))[:length] if length else times
        requests = np.where(random.random(length) < 0.2, np.maximum(requests - 1, 0), requests)
        events = [
            {
                "time": int(t),
                "request": int(r),
                "item": int(random.integers(0, 39)),
                "action": int(random.integers(0, 3)),
                "impression": bool(random.random() < impressions),
                "label": int(random.integers(0, 2)),
                "tab": int(random.integers(0, 5)),
                "topics": random.integers(0, 7, random.integers(0, 3)).tolist(),
                "dwell": float(1000 * u + at),
                "item_like_count": float(random.integers(0, 50)),
                "item_like_rate": float(random.random()),
            }
            for at, (t, r) in enumerate(zip(times, requests, strict=True))
        ]
        users.append({"user_id": f"u{u}", "gender": u % 3, "likes": [0, 2][: u % 3], "age": float(u), "events": events})
    return users


def write_log(
    folder: Path,
    users: Sequence[Row],
    items: Sequence[Row] | None = None,
    log_schema: LogSchema | None = None,
    split: Split = SPLIT,
    users_per_row_group: int = 3,
    row_groups_per_file: int = 2,
    tables: Mapping[str, int] | None = None,
) -> LogManifest:
    """Writes a valid prepared log.

    users: dicts of profile features, `user_id` and `events`; an event is a dict of time, item, action, impression,
    label, and optionally request (equal times otherwise), event features and counters (0, empty or row 1 otherwise).
    items: dicts of item features, by item number. tables: rows by table name.
    """
    log_schema = log_schema or schema()
    items = random_items(0) if items is None else items
    tables = TABLES if tables is None else tables
    rows = [_slice(number, user, log_schema) for number, user in enumerate(users)]
    for part in ("events", "users", "items"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    groups: list[RowGroup] = []
    per_file = users_per_row_group * row_groups_per_file
    for at in range(0, max(len(rows), 1), per_file):
        name = f"part-{at // per_file:05d}.parquet"
        mine = rows[at : at + per_file]
        _write(folder / "events" / name, mine, event_fields(log_schema), users_per_row_group)
        profiles = [_profile(number, users[number], log_schema) for number in range(at, at + len(mine))]
        _write(folder / "users" / name, profiles, user_fields(log_schema), max(per_file, 1))
        for index in range(0, len(mine), users_per_row_group):
            first = sum(g.events for g in groups)
            group = mine[index : index + users_per_row_group]
            groups.append(_row_group(f"events/{name}", index // users_per_row_group, group, first, split))
    attributes = [
        {"item_id": f"i{n}", "first_time": 0, **_features(item, log_schema, Side.ITEM)} for n, item in enumerate(items)
    ]
    _write(folder / "items" / "items.parquet", attributes, item_fields(log_schema), max(len(items), 1))
    for table in tables:
        _vocabulary(folder / "vocabulary" / f"{table}.parquet", table, tables[table])
    manifest = _manifest(log_schema, split, groups, rows, len(items), tables)
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1))
    return manifest


def _vocabulary(path: Path, table: str, rows: int) -> None:
    """Row r > 0 stands for the id `<table>-<r>`."""
    path.parent.mkdir(exist_ok=True)
    ids = [f"{table}-{row}" for row in range(1, rows)]
    row = pa.array(range(1, rows), pa.int32())
    count = pa.array([1] * (rows - 1), pa.int64())
    pq.write_table(pa.table({"id": ids, "row": row, "count": count, "hash": hash64(ids)}), path)


def event_fields(log_schema: LogSchema) -> list[pa.Field]:
    """Arrow schema of events/."""
    fields = [pa.field("user", pa.int64())]
    fields += [pa.field(name, pa.list_(pa.int64())) for name in ("time", "request_time", "request")]
    fields += [pa.field("item", pa.list_(pa.int32())), pa.field("impression", pa.list_(pa.bool_()))]
    fields += [pa.field("action", pa.list_(pa.int16()))]
    fields += [pa.field(f"label_{name}", pa.list_(pa.int8())) for name in log_schema.labels]
    fields += [pa.field(f.name, pa.list_(_type(f))) for f in log_schema.of(Side.EVENT)]
    return fields + [pa.field(name, pa.list_(pa.float32())) for name in _counters(log_schema)]


def user_fields(log_schema: LogSchema) -> list[pa.Field]:
    """Arrow schema of users/."""
    fields = [pa.field("user", pa.int64()), pa.field("user_id", pa.string())]
    return fields + [pa.field(f.name, _type(f)) for f in log_schema.of(Side.USER)]


def item_fields(log_schema: LogSchema) -> list[pa.Field]:
    """Arrow schema of items/."""
    fields = [pa.field("item_id", pa.string()), pa.field("first_time", pa.int64())]
    return fields + [pa.field(f.name, _type(f)) for f in log_schema.of(Side.ITEM)]


def _type(feature: Feature) -> pa.DataType:
    if feature.kind is Kind.VECTOR:
        return pa.list_(pa.float32(), feature.dim or 1)
    simple = {
        Kind.CATEGORY: pa.int32(),
        Kind.CATEGORIES: pa.list_(pa.int32()),
        Kind.NUMBER: pa.float32(),
        Kind.TEXT: pa.string(),
    }
    return simple[feature.kind]


def _counters(log_schema: LogSchema) -> list[str]:
    return [f"{c.name}_{part}" for c in log_schema.counters for part in ("count", "rate")]


def _features(row: Row, log_schema: LogSchema, side: Side) -> dict[str, Any]:
    defaults: dict[Kind, Any] = {Kind.CATEGORY: 1, Kind.CATEGORIES: [], Kind.NUMBER: 0.0, Kind.TEXT: ""}
    return {
        f.name: row.get(f.name, [0.0] * (f.dim or 1) if f.kind is Kind.VECTOR else defaults[f.kind])
        for f in log_schema.of(side)
    }


def _slice(number: int, user: Row, log_schema: LogSchema) -> dict[str, Any]:
    """One row of events/: request times found, events in the order (time, request, item)."""
    events = [dict(event) for event in user["events"]]
    for event in events:
        event.setdefault("request", event["time"])
    start: dict[int, int] = {}
    for event in events:
        start[event["request"]] = min(event["time"], start.get(event["request"], event["time"]))
    events.sort(key=lambda e: (e["time"], e["request"], e["item"]))
    columns: dict[str, Any] = {"user": number}
    columns |= {name: [e[name] for e in events] for name in ("time", "request", "item", "impression", "action")}
    columns["request_time"] = [start[e["request"]] for e in events]
    for label in log_schema.labels:
        columns[f"label_{label}"] = [e["label"] if e["impression"] else -1 for e in events]
    for f in log_schema.of(Side.EVENT):
        columns[f.name] = [_features(e, log_schema, Side.EVENT)[f.name] for e in events]
    for name in _counters(log_schema):
        columns[name] = [float(e.get(name, 0.0)) for e in events]
    return columns


def _profile(number: int, user: Row, log_schema: LogSchema) -> dict[str, Any]:
    return {"user": number, "user_id": str(user["user_id"]), **_features(user, log_schema, Side.USER)}


def _write(path: Path, rows: Sequence[Row], fields: list[pa.Field], row_group: int) -> None:
    table = pa.table({f.name: pa.array([r[f.name] for r in rows], f.type) for f in fields}, pa.schema(fields))
    pq.write_table(table, path, row_group_size=row_group, compression="zstd")


def _row_group(file: str, index: int, rows: Sequence[Row], first: int, split: Split) -> RowGroup:
    times = np.array([t for r in rows for t, i in zip(r["request_time"], r["impression"], strict=True) if i])
    which = np.digitize(times, [split.train_end, split.valid_end], right=True)
    train, valid, test = (int((which == s).sum()) for s in range(3))
    return RowGroup(
        file=file,
        index=index,
        users=len(rows),
        events=sum(len(r["time"]) for r in rows),
        first_event=first,
        impressions=(train, valid, test),
    )


def _manifest(
    log_schema: LogSchema,
    split: Split,
    groups: Sequence[RowGroup],
    rows: Sequence[Row],
    num_items: int,
    tables: Mapping[str, int],
) -> LogManifest:
    times = [t for r in rows for t in r["time"]] or [0]
    numbers = [f.name for f in log_schema.features if f.kind is Kind.NUMBER] + _counters(log_schema)
    train, valid, test = (sum(g.impressions[s] for g in groups) for s in range(3))
    return LogManifest(
        fingerprint="test",
        data_schema=log_schema,
        split=split,
        tables={name: TableInfo(rows=n, ids=n - 1, out_of_vocabulary_share=0.0) for name, n in tables.items()},
        numbers={name: NumberInfo(mean=0.5, std=2.0) for name in numbers},
        row_groups=tuple(groups),
        users=len(rows),
        items=num_items,
        events=sum(g.events for g in groups),
        impressions=(train, valid, test),
        positives={name: (0, 0, 0) for name in log_schema.labels},
        time_range=(min(times), max(times)),
    )
