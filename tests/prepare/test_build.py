"""The whole preparation against a plain Python oracle, its determinism, and every refusal of a bad log."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from ctr_rec.batch.config import Channel, DataConfig
from ctr_rec.batch.reader import Reader
from ctr_rec.errors import DataError, SchemaError
from ctr_rec.evaluate.stream import read_stream
from ctr_rec.prepare.build import prepare
from ctr_rec.prepare.check import check
from ctr_rec.prepare.raw import RawLog
from ctr_rec.schema.hashing import hash64
from ctr_rec.schema.log import Feature, Kind, Known, Side, Split
from ctr_rec.schema.manifest import MANIFEST, load_manifest
from ctr_rec.schema.table import EmbeddingSettings, sparse_spec
from tests.prepare.raws import SCHEMA, SIMPLE_SPLIT, SPLIT, build, random_raw, simple_raw, simple_schema


def stored(log: Path) -> dict[str, list[dict[str, Any]]]:
    """Events of each raw user id as dicts, items replaced by their raw ids and features by raw values."""
    items = pq.read_table(log / "items" / "items.parquet").to_pylist()
    events = [row for f in sorted((log / "events").iterdir()) for row in pq.read_table(f).to_pylist()]
    users = [row for f in sorted((log / "users").iterdir()) for row in pq.read_table(f).to_pylist()]
    found = {}
    for event, user in zip(events, users, strict=True):
        assert event["user"] == user["user"]
        columns = [c for c in event if c != "user"]
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*(event[c] for c in columns), strict=True)]
        for row in rows:
            row["item"] = items[row["item"]]["item_id"]
        found[user["user_id"]] = rows
    return found


def oracle(raw: RawLog, split: Split = SPLIT) -> dict[str, list[dict[str, Any]]]:
    """The same by loops over Python dicts, from the words of the design."""
    rows = raw.events.collect().to_dicts()
    for row in rows:
        own = (row["user_id"], row["request"], None if row["request"] else row["time"])
        row["key"] = own
    times = {k: min(r["time"] for r in rows if r["key"] == k) for k in {r["key"] for r in rows}}
    for row in rows:
        row["request_time"] = times[row["key"]]
    if split.test_end is not None:
        rows = [r for r in rows if r["request_time"] <= split.test_end]
    train = [r for r in rows if r["impression"] and r["request_time"] <= split.train_end]
    prior = {n: np.mean([float(r[f"label_{n}"]) for r in train]) for n in SCHEMA.labels}
    for row in rows:
        for name, by, label in (("item_click", "item_id", "click"), ("user_buy", "user_id", "buy")):
            seen = [
                float(e[f"label_{label}"])
                for e in rows
                if e["impression"] and e[by] == row[by] and e["time"] + SCHEMA.action_delay < row["request_time"]
            ]
            row[f"{name}_count"] = len(seen)
            row[f"{name}_rate"] = (sum(seen) + 20 * prior[label]) / (len(seen) + 20)
    return {u: [r for r in rows if r["user_id"] == u] for u in {r["user_id"] for r in rows}}


def comparable(row: dict[str, Any]) -> tuple[Any, ...]:
    label = [-1 if row[f"label_{n}"] in (None, -1) else int(row[f"label_{n}"]) for n in SCHEMA.labels]
    action = row["action"] if isinstance(row["action"], int) else SCHEMA.actions.index(row["action"])
    item = row["item"] if "item" in row else row["item_id"]
    counters = [round(float(row[f"{c}_{p}"]), 4) for c in ("item_click", "user_buy") for p in ("count", "rate")]
    return (row["time"], row["request_time"], item, row["impression"], action, *label, *counters)


def test_what_lies_before_train_start_is_history_only(tmp_path: Path) -> None:
    """Everything but the training impressions is as without it: rows, statistics, counters, the other ranges."""
    raw, later = random_raw(), SPLIT.model_copy(update={"train_start": 400})
    whole = build(raw, tmp_path / "whole")
    manifest = build(raw, tmp_path / "log", split=later)
    check(tmp_path / "log")
    assert manifest.fingerprint != whole.fingerprint
    assert (manifest.tables, manifest.numbers, manifest.events) == (whole.tables, whole.numbers, whole.events)
    assert manifest.impressions[1:] == whole.impressions[1:]
    times = np.array([r["request_time"] for v in oracle(raw).values() for r in v if r["impression"]])
    assert manifest.impressions[0] == ((times > 400) & (times <= SPLIT.train_end)).sum() > 0
    spec = sparse_spec(manifest, EmbeddingSettings())
    batches = []
    for log in ("whole", "log"):
        data = DataConfig(log=str(tmp_path / log), label="click", channels={"all": Channel(last=50)})
        batches.append(next(Reader(data.model_copy(update={"shuffle": False}), spec, "train", 0).batches(0)))
    own = (batches[0].impression_time > 400).numpy()
    assert batches[1].impression_id.tolist() == batches[0].impression_id[own].tolist()
    assert batches[1].history_length.tolist() == batches[0].history_length[own].tolist()
    stream = read_stream(str(tmp_path / "log"), manifest, "click")
    assert len(stream.rows("train")) == manifest.impressions[0]


def test_a_start_that_leaves_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    late = Split(train_start=600, train_end=603, valid_end=800)
    with pytest.raises(DataError, match=r"leaves train without impressions \(600 < train <= 603 < valid <= 800"):
        build(random_raw(), tmp_path / "log", split=late)


@pytest.mark.parametrize("partition_events", [10**6, 150])
@pytest.mark.parametrize("test_end", [None, 900])
def test_equals_the_oracle(tmp_path: Path, partition_events: int, test_end: int | None) -> None:
    raw, split = random_raw(), SPLIT.model_copy(update={"test_end": test_end})
    manifest = build(raw, tmp_path / "log", split=split, partition_events=partition_events)
    got, expected = stored(tmp_path / "log"), oracle(raw, split)
    assert got.keys() == expected.keys()
    for user, rows in got.items():
        assert sorted(map(comparable, rows)) == sorted(map(comparable, expected[user])), user
        order = [(r["time"], r["request"], r["item"]) for r in rows]
        assert order == sorted(order)
        keys = {r["request"]: set() for r in rows}
        for r in rows:
            keys[r["request"]].add(r["request_time"])
        assert all(len(times) == 1 for times in keys.values())
    requests = [{r["request"] for r in rows} for rows in got.values()]
    assert len(set().union(*requests)) == sum(map(len, requests)), "a request id is unique in the log"
    flat = [r for rows in expected.values() for r in rows if r["impression"]]
    ends = (-(2**62), split.train_end, split.valid_end, 2**62)
    counts = tuple(sum(lo < r["request_time"] <= hi for r in flat) for lo, hi in itertools.pairwise(ends))
    assert manifest.impressions == counts
    assert manifest.events == sum(map(len, expected.values()))
    assert manifest.time_range == (
        min(r["time"] for v in expected.values() for r in v),
        max(r["time"] for v in expected.values() for r in v),
    )


def test_features_are_the_raw_values_through_their_vocabularies(tmp_path: Path) -> None:
    raw = random_raw(3)
    build(raw, tmp_path / "log", partition_events=300)
    names = {}
    for table in ("country", "item", "tag", "page", "word"):
        rows = pq.read_table(tmp_path / "log" / "vocabulary" / f"{table}.parquet").to_pylist()
        names[table] = {r["id"]: r["row"] for r in rows}
    expected = {}
    for row in raw.events.collect().to_dicts():
        expected.setdefault((row["user_id"], row["time"], row["item_id"]), []).append(
            (names["page"][row["page"]], tuple(names["word"][w] for w in row["words"]), np.float32(row["dwell"]))
        )
    for user, rows in stored(tmp_path / "log").items():
        for row in rows:
            got = (row["page"], tuple(row["words"]), np.float32(row["dwell"]))
            assert got in expected[(user, row["time"], row["item"])]
    assert names["word"]["w1"] == 1 + int(hash64(["w1"])[0]) % 11
    things = {r["item_id"]: r for r in raw.items.collect().to_dicts()}  # pyright: ignore[reportOptionalMemberAccess]
    for row in pq.read_table(tmp_path / "log" / "items" / "items.parquet").to_pylist():
        thing = things[row["item_id"]]
        assert row["thing"] == names["item"][thing["thing"]]
        assert row["tags"] == [names["tag"][t] for t in thing["tags"]]
        assert row["title"] == (thing["title"] or "")
        np.testing.assert_allclose(row["look"], thing["look"], rtol=1e-6)
        np.testing.assert_allclose(row["price"], thing["price"], rtol=1e-6)


def test_counts_and_statistics_are_of_the_training_range_only(tmp_path: Path) -> None:
    raw = random_raw(1)
    manifest = build(raw, tmp_path / "log")
    rows = [r for v in oracle(raw).values() for r in v if r["request_time"] <= SPLIT.train_end]
    vocabulary = pq.read_table(tmp_path / "log" / "vocabulary" / "item.parquet").to_pylist()
    for entry in vocabulary:
        count = sum(f"t{r['item_id']}" == entry["id"] for r in rows)
        assert entry["count"] == count
        assert (entry["row"] == 0) == (count < 3)
    kept = [e for e in vocabulary if e["row"] > 0]
    assert [e["row"] for e in kept] == list(range(1, len(kept) + 1))
    assert [(-e["count"], e["id"]) for e in kept] == sorted((-e["count"], e["id"]) for e in kept)
    things = {r["item_id"]: r for r in raw.items.collect().to_dicts()}  # pyright: ignore[reportOptionalMemberAccess]
    price = np.log1p([things[r["item_id"]]["price"] for r in rows])
    assert manifest.numbers["price"].mean == pytest.approx(price.mean())
    assert manifest.numbers["price"].std == pytest.approx(price.std())
    shown = [np.log1p(r["item_click_count"]) for r in rows if r["impression"]]
    assert manifest.numbers["item_click_count"].mean == pytest.approx(np.mean(shown))
    assert manifest.numbers["item_click_count"].std == pytest.approx(np.std(shown))


def test_nothing_after_the_training_range_moves_a_statistic(tmp_path: Path) -> None:
    raw = random_raw(5)
    changed = raw.events.with_columns(
        pl.when(pl.col("time") > 700).then(pl.lit("p9")).otherwise(pl.col("page")).alias("page"),
        pl.when(pl.col("time") > 700).then(99.0).otherwise(pl.col("dwell")).alias("dwell"),
    )
    one = build(raw, tmp_path / "one")
    two = build(RawLog(events=changed, users=raw.users, items=raw.items), tmp_path / "two")
    assert one.numbers == two.numbers
    assert one.tables["page"].rows == two.tables["page"].rows
    assert two.tables["page"].ids == one.tables["page"].ids + 1


def test_same_bytes_twice_and_after_shuffling_the_raw_rows(tmp_path: Path) -> None:
    raw = random_raw(2)
    # Without full duplicates nothing but the named keys decides the order.
    keys = ["user_id", "time", "item_id", "request"]
    events = raw.events.collect().unique(keys, keep="first", maintain_order=True)
    raw = RawLog(events=events.lazy(), users=raw.users, items=raw.items)
    shuffled = RawLog(events=events.sample(fraction=1, shuffle=True, seed=4).lazy(), users=raw.users, items=raw.items)
    for name, log in (("a", raw), ("b", raw), ("c", shuffled)):
        build(log, tmp_path / name, partition_events=400)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) > 8
    for file in files:
        bytes_a = (tmp_path / "a" / file).read_bytes()
        assert bytes_a == (tmp_path / "b" / file).read_bytes(), file
        assert bytes_a == (tmp_path / "c" / file).read_bytes(), file


def test_row_groups_hold_whole_users_and_add_up(tmp_path: Path) -> None:
    manifest = build(random_raw(), tmp_path / "log", partition_events=300, row_group_events=100)
    assert len(manifest.row_groups) > 6
    assert len({g.file for g in manifest.row_groups}) == 3
    first = 0
    for group in manifest.row_groups:
        assert group.first_event == first
        assert group.events <= 100 or group.users == 1
        first += group.events
    assert first == manifest.events
    assert check(tmp_path / "log") == manifest


def test_without_users_items_requests_and_features(tmp_path: Path) -> None:
    manifest = build(simple_raw(), tmp_path / "log", simple_schema(), SIMPLE_SPLIT)
    assert manifest.impressions == (20, 5, 5)
    assert manifest.tables == {}
    users = pq.read_table(tmp_path / "log" / "users" / "part-00000.parquet").to_pydict()
    assert users == {"user": [0, 1, 2], "user_id": [0, 1, 2]}


def test_a_user_after_the_last_split_is_not_read(tmp_path: Path) -> None:
    raw = simple_raw(user_id=[k % 3 if k < 28 else 9 for k in range(30)])
    split = Split(train_end=19, valid_end=24, test_end=27)
    manifest = build(raw, tmp_path / "log", simple_schema(), split)
    assert manifest.users == 3
    assert manifest.events == 28


EVENT = {"side": Side.EVENT}
CATEGORY = Feature(name="page", kind=Kind.CATEGORY, table="page", **EVENT)
NUMBER = Feature(name="price", kind=Kind.NUMBER, **EVENT)


@pytest.mark.parametrize(
    ("columns", "features", "error", "words"),
    [
        ({}, (CATEGORY,), SchemaError, ["'page' is missing", "label_click", "build.py"]),
        ({"page": [1.5] * 30}, (CATEGORY,), SchemaError, ["'page'", "Float64", "kind category"]),
        ({"price": ["x"] * 30}, (NUMBER,), SchemaError, ["'price'", "String", "a number"]),
        ({"page": [*["a"] * 4, None, *["a"] * 25]}, (CATEGORY,), DataError, ["'page'", "row 5", "CATEGORIES"]),
        ({"price": [*[1.0] * 6, float("nan"), *[1.0] * 23]}, (NUMBER,), DataError, ["'price'", "row 7", "nan", "fill"]),
        ({"price": [*[1.0] * 6, None, *[1.0] * 23]}, (NUMBER,), DataError, ["'price'", "row 7", "None"]),
        ({"label_click": [*[1] * 8, 2, *[0] * 21]}, (), DataError, ["'label_click'", "row 9", "0 or 1", "2.0"]),
        ({"label_click": [*[1] * 8, None, *[0] * 21]}, (), DataError, ["'label_click'", "row 9", "impression"]),
        ({"label_click": ["y"] * 30}, (), SchemaError, ["'label_click'", "String", "0 and 1"]),
        ({"action": [*[1] * 8, 2, *[0] * 21]}, (), DataError, ["'action'", "row 9", "0=no, 1=yes"]),
        ({"action": [*["no"] * 8, "maybe", *["yes"] * 21]}, (), DataError, ["'action'", "row 9", "maybe"]),
        ({"user_id": [*[1] * 8, None, *[0] * 21]}, (), DataError, ["'user_id'", "row 9", "a value"]),
        ({"time": [*range(8), None, *range(21)]}, (), DataError, ["'time'", "row 9", "a value"]),
        ({"time": [float(k) for k in range(30)]}, (), SchemaError, ["'time'", "Float64", "integer count of s"]),
        ({"impression": [1] * 30}, (), SchemaError, ["'impression'", "boolean"]),
        ({"item_id": [1.5] * 30}, (), SchemaError, ["'item_id'", "integer or a string"]),
    ],
)
def test_bad_values_are_refused_with_column_and_row(
    tmp_path: Path, columns: dict[str, list], features: tuple[Feature, ...], error: type[Exception], words: list[str]
) -> None:
    with pytest.raises(error) as caught:
        build(simple_raw(**columns), tmp_path / "log", simple_schema(*features), SIMPLE_SPLIT)
    for word in words:
        assert word in str(caught.value)
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_a_split_that_leaves_a_range_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"leaves test without impressions.*30 / 0 / 0|leaves valid, test") as caught:
        build(simple_raw(), tmp_path / "log", simple_schema(), Split(train_end=100, valid_end=200))
    assert "run from 0 to 29" in str(caught.value)
    with pytest.raises(DataError, match="leaves train, valid, test without"):
        build(simple_raw(), tmp_path / "log", simple_schema(), Split(train_end=-9, valid_end=-5, test_end=-2))


def test_an_empty_log_is_refused(tmp_path: Path) -> None:
    empty = RawLog(events=simple_raw().events.head(0))
    with pytest.raises(DataError, match="at least one event, got an empty file"):
        build(empty, tmp_path / "log", simple_schema(), SIMPLE_SPLIT)


def test_no_users_and_missing_users_are_refused(tmp_path: Path) -> None:
    schema = simple_schema(Feature(name="age", kind=Kind.NUMBER, side=Side.USER))
    users = pl.DataFrame({"user_id": [0, 1], "age": [3.0, 4.0]})
    events = simple_raw().events
    with pytest.raises(SchemaError, match="returns no users"):
        build(RawLog(events=events), tmp_path / "log", schema, SIMPLE_SPLIT)
    with pytest.raises(DataError, match="at least one user, got none"):
        build(RawLog(events=events, users=users.head(0).lazy()), tmp_path / "log", schema, SIMPLE_SPLIT)
    with pytest.raises(DataError, match=r"1 user_ids of the events have no row, the first is 2"):
        build(RawLog(events=events, users=users.lazy()), tmp_path / "log", schema, SIMPLE_SPLIT)
    twice = pl.concat([users, users])
    with pytest.raises(DataError, match="one row per id, got 0"):
        build(RawLog(events=events, users=twice.lazy()), tmp_path / "log", schema, SIMPLE_SPLIT)


def test_a_truncated_raw_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    simple_raw(3000).events.collect().write_parquet(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    raw = RawLog(events=pl.scan_parquet(path), sources=(path,))
    with pytest.raises(DataError, match=r"events of events\.parquet: cannot be read"):
        build(raw, tmp_path / "log", simple_schema(), SIMPLE_SPLIT)


def test_a_feature_that_tells_the_label_is_warned_of(tmp_path: Path) -> None:
    features = (NUMBER, CATEGORY.model_copy(update={"name": "paid", "table": "paid", "known": Known.ACTION}))
    label = [k % 2 for k in range(30)]
    raw = simple_raw(price=[float(v) for v in label], paid=label)
    manifest = build(raw, tmp_path / "log", simple_schema(*features), SIMPLE_SPLIT)
    assert len(manifest.notes) == 1
    assert "'price' alone reaches validation AUC 1.000 for label 'click'" in manifest.notes[0]
    assert load_manifest(tmp_path / "log").notes == manifest.notes


def test_an_old_log_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "log"
    first = build(simple_raw(), out, simple_schema(), SIMPLE_SPLIT)
    with pytest.raises(DataError, match="is not empty"):
        build(simple_raw(), out, simple_schema(), SIMPLE_SPLIT)
    with pytest.raises(DataError):
        build(simple_raw(action=[9] * 30), out, simple_schema(), SIMPLE_SPLIT, overwrite=True)
    assert check(out) == first
    second = build(simple_raw(33), out, simple_schema(), SIMPLE_SPLIT, overwrite=True)
    assert check(out) == second
    assert second.events == 33
    assert [p.name for p in tmp_path.iterdir()] == ["log"]


def test_prepare_reads_a_recipe_folder_and_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "schema.py").write_text(
        "from ctr_rec.schema.log import LogSchema, Split\n"
        "SCHEMA = LogSchema(name='x', actions=('no', 'yes'), labels=('click',), features=(), vocabularies=())\n"
        "SPLITS = {'default': Split(train_end=19, valid_end=24), 'early': Split(train_end=9, valid_end=14)}\n"
    )
    (folder / "build.py").write_text(
        "import polars as pl\nfrom ctr_rec.prepare.raw import RawLog\n"
        "def read(raw):\n    return RawLog(events=pl.scan_csv(raw), sources=(raw,))\n"
    )
    simple_raw().events.collect().write_csv(tmp_path / "log.csv")
    assert prepare(folder, tmp_path / "log.csv", tmp_path / "a").impressions == (20, 5, 5)
    printed = capsys.readouterr().out
    for word in ("impressions", "action delay", "density", "written and checked"):
        assert word in printed
    assert prepare(folder, tmp_path / "log.csv", tmp_path / "b", split="early").impressions == (10, 5, 15)
    assert prepare(folder, tmp_path / "log.csv", tmp_path / "c", split="4,9,14").impressions == (5, 5, 5)
    assert (tmp_path / "c" / MANIFEST).is_file()
    assert load_manifest(tmp_path / "c").sources[0].name == "log.csv"
    with pytest.raises(DataError, match=r"raw log .* does not exist"):
        prepare(folder, tmp_path / "nothing.csv", tmp_path / "d")
