"""A log that grows keeps every row, scale and prior of the old one; what contradicts it is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from ctr_rec.errors import DataError, SchemaError
from ctr_rec.prepare.check import check
from ctr_rec.prepare.grow import open_old
from ctr_rec.prepare.raw import RawLog
from ctr_rec.prepare.vocabulary import vocabulary_path
from ctr_rec.schema.log import Feature, Kind, LogSchema, Side, Split, Vocabulary
from ctr_rec.schema.manifest import MANIFEST, load_manifest
from tests.prepare.raws import SCHEMA, build, random_raw

OLD = Split(train_end=120, valid_end=800)
NEW = Split(train_start=120, train_end=600, valid_end=800)


def rows(log: Path, table: str) -> dict[str, int]:
    stored = pq.read_table(vocabulary_path(log, table))
    return dict(zip(stored["id"].to_pylist(), stored["row"].to_pylist(), strict=True))


@pytest.fixture(scope="module")
def raw() -> RawLog:
    return random_raw()


@pytest.fixture(scope="module")
def old(raw: RawLog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs") / "old"
    build(raw, folder, split=OLD)
    return folder


def test_old_ids_keep_their_rows_and_new_ones_follow(raw: RawLog, old: Path, tmp_path: Path) -> None:
    manifest = build(raw, tmp_path / "new", split=NEW, grow=old)
    check(tmp_path / "new")
    fresh = build(raw, tmp_path / "fresh", split=NEW)
    grew = set()
    for table in ("country", "item", "tag", "page"):
        before, now = rows(old, table), rows(tmp_path / "new", table)
        kept = {i: r for i, r in before.items() if r}
        assert {i: now[i] for i in kept} == kept
        new = sorted((r, i) for i, r in now.items() if r and i not in kept)
        assert [r for r, _ in new] == list(range(len(kept) + 1, manifest.tables[table].rows))
        order = rows(tmp_path / "fresh", table)
        assert [i for _, i in new] == sorted((i for _, i in new), key=lambda i: order[i])
        assert now.keys() == order.keys()
        assert {i for i, r in now.items() if r} == {i for i, r in order.items() if r} | kept.keys()
        grew |= {table} if new else set()
        if table == "item":
            assert any(before.get(i) == 0 for _, i in new), "an id that was too rare has a row now"
    assert "item" in grew
    assert rows(tmp_path / "new", "word") == rows(tmp_path / "fresh", "word"), "hashed rows stay as they are"
    assert manifest.fingerprint != fresh.fingerprint
    assert manifest.grown_from == (load_manifest(old).fingerprint,)
    again = build(
        raw, tmp_path / "again", split=Split(train_start=600, train_end=800, valid_end=900), grow=tmp_path / "new"
    )
    assert again.grown_from == (manifest.fingerprint, load_manifest(old).fingerprint)


def test_scales_and_priors_of_the_old_log_are_kept(raw: RawLog, old: Path, tmp_path: Path) -> None:
    manifest = build(raw, tmp_path / "new", split=NEW, grow=old)
    fresh = build(raw, tmp_path / "fresh", split=NEW)
    before = load_manifest(old)
    assert manifest.numbers == before.numbers != fresh.numbers
    assert manifest.priors == before.priors != fresh.priors
    same = build(raw, tmp_path / "same", split=OLD, grow=old)
    part = "events/part-00000.parquet"
    assert pq.read_table(tmp_path / "same" / part) == pq.read_table(old / part), "the same event has the same rate"
    assert same.tables == before.tables


def test_priors_of_a_log_from_before_they_were_stored_are_its_ratios(raw: RawLog, old: Path, tmp_path: Path) -> None:
    build(raw, tmp_path / "log", split=OLD)
    fields = json.loads((tmp_path / "log" / MANIFEST).read_text())
    del fields["priors"]
    (tmp_path / "log" / MANIFEST).write_text(json.dumps(fields))
    assert open_old(tmp_path / "log", SCHEMA).priors() == pytest.approx(load_manifest(old).priors)


def test_a_schema_with_more_grows(raw: RawLog, old: Path, tmp_path: Path) -> None:
    more = SCHEMA.model_copy(
        update={
            "features": (Feature(name="kind", kind=Kind.CATEGORY, side=Side.EVENT, table="kind"), *SCHEMA.features),
            "vocabularies": (*SCHEMA.vocabularies, Vocabulary(table="kind")),
            "actions": (*SCHEMA.actions, "share"),
        }
    )
    events = raw.events.with_columns(pl.col("page").alias("kind"))
    manifest = build(RawLog(events, raw.users, raw.items), tmp_path / "new", more, NEW, grow=old)
    assert manifest.tables["kind"].rows == manifest.tables["page"].rows


def changed(name: str, **fields: Any) -> LogSchema:
    features = tuple(f.model_copy(update=fields) if f.name == name else f for f in SCHEMA.features)
    return SCHEMA.model_copy(update={"features": features})


def vocabularies(*tables: Vocabulary) -> tuple[Vocabulary, ...]:
    new = {v.table: v for v in tables}
    return tuple(new.get(v.table, v) for v in SCHEMA.vocabularies)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (changed("page", table="place"), "table"),
        (changed("income", log1p=True), "feature 'income' had log1p False, has True"),
        (changed("page", table="word"), "feature 'page' had table page, has word"),
        (changed("look", dim=4), "feature 'look' had dim 3, has 4"),
        (changed("title", kind=Kind.NUMBER), "feature 'title' had kind text, has number"),
        (SCHEMA.model_copy(update={"features": SCHEMA.features[1:]}), "feature 'country' is gone"),
        (SCHEMA.model_copy(update={"vocabularies": SCHEMA.vocabularies[1:]}), "table 'country' is gone"),
        (
            SCHEMA.model_copy(update={"vocabularies": vocabularies(Vocabulary(table="word", hash_rows=12))}),
            "table 'word' had hash_rows 11, has 12",
        ),
        (
            SCHEMA.model_copy(update={"vocabularies": vocabularies(Vocabulary(table="item", hash_rows=9))}),
            "table 'item' had hash_rows None, has 9",
        ),
        (SCHEMA.model_copy(update={"actions": ("click", "skip", "buy")}), "actions were skip, click, buy, are click"),
        (SCHEMA.model_copy(update={"time_unit": "ms"}), "time_unit was s, is ms"),
        (SCHEMA.model_copy(update={"action_delay": 0}), "action_delay was 7, is 0"),
    ],
)
def test_a_schema_that_contradicts_the_old_log_is_refused(old: Path, schema: LogSchema, words: str) -> None:
    with pytest.raises(SchemaError) as caught:
        open_old(old, schema)
    assert words in str(caught.value)
    assert f"--grow {old}: the schema 'small' contradicts this log" in str(caught.value)
    assert "prepare without --grow" in str(caught.value)


def test_min_count_may_change(raw: RawLog, old: Path, tmp_path: Path) -> None:
    schema = SCHEMA.model_copy(update={"vocabularies": vocabularies(Vocabulary(table="item"))})
    manifest = build(raw, tmp_path / "new", schema, NEW, grow=old)
    assert manifest.tables["item"].rows > load_manifest(old).tables["item"].rows


def test_an_old_vocabulary_with_a_row_missing_is_named(raw: RawLog, tmp_path: Path) -> None:
    build(raw, tmp_path / "old", split=OLD)
    path = vocabulary_path(tmp_path / "old", "country")
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(DataError, match=r"country.parquet: expected each of the rows 1 to 3 once.*got 2 rows; copy"):
        build(raw, tmp_path / "new", split=NEW, grow=tmp_path / "old")
    assert not (tmp_path / "new").exists()


def test_what_is_no_log_cannot_grow(raw: RawLog, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a prepared log: it has no manifest.json"):
        build(raw, tmp_path / "new", split=NEW, grow=tmp_path)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (None, "training begins with the log, before the end 120 of the training range of"),
        (80, "trains on the same impressions again (begin with --split 120..)"),
        (200, "training begins at 200, the training range of"),
    ],
)
def test_ranges_that_overlap_or_leave_a_gap_are_noted(
    raw: RawLog, old: Path, tmp_path: Path, start: int | None, words: str
) -> None:
    manifest = build(raw, tmp_path / "new", split=NEW.model_copy(update={"train_start": start}), grow=old)
    assert any(words in note for note in manifest.notes)


def test_a_range_that_follows_is_not_noted(raw: RawLog, old: Path, tmp_path: Path) -> None:
    notes = build(raw, tmp_path / "new", split=NEW, grow=old).notes
    assert not any("training begins" in note for note in notes)
