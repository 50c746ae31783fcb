"""Vectors of a file reach the batch; a source that saw what is scored is refused; codes know training items only."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from ctr_rec.batch.config import Channel, DataConfig
from ctr_rec.batch.reader import Reader
from ctr_rec.errors import ConfigError, DataError, SchemaError
from ctr_rec.prepare.check import check
from ctr_rec.prepare.content import Content, join_content
from ctr_rec.prepare.raw import RawLog
from ctr_rec.prepare.semantic_ids import SemanticIds
from ctr_rec.schema.content import ContentInfo, info_path
from ctr_rec.schema.log import Feature, Kind, Side, Split
from ctr_rec.schema.table import EmbeddingSettings, sparse_spec
from tests.prepare.raws import SCHEMA, SIMPLE_SPLIT, SPLIT, build, random_raw, simple_raw, simple_schema

DIM = 4
CODES = SemanticIds(2, 3)


def vectors_of(items: int = 17) -> dict[int, np.ndarray]:
    """Of items 3 and up: the log's items 1 and 2 have none."""
    r = np.random.default_rng(1)
    return {k: r.normal(size=DIM) for k in range(3, items + 1)}


def file_of(path: Path, vectors: dict[Any, np.ndarray], dtype: Any = pl.Float32, **info: Any) -> Path:
    schema = {"vector": pl.Array(dtype, len(next(iter(vectors.values()))))}
    columns = {"item_id": list(vectors), "vector": np.stack(list(vectors.values()))}
    pl.DataFrame(columns, schema_overrides=schema).write_parquet(path)
    if info:
        told = ContentInfo.model_validate({"method": "mine", "model": "resnet 3", **info})
        info_path(path).write_text(told.model_dump_json())
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return file_of(tmp_path / "look.parquet", vectors_of(), method="mine")


def stored(log: Path, *columns: str) -> dict[Any, Any]:
    """Raw item id -> the values of some columns (one: itself)."""
    rows = pq.read_table(log / "items" / "items.parquet", columns=["item_id", *columns]).to_pylist()
    return {r["item_id"]: tuple(r[c] for c in columns) if len(columns) > 1 else r[columns[0]] for r in rows}


@pytest.mark.parametrize("dtype", [pl.Float16, pl.Float32, pl.Float64])
def test_vectors_travel_from_the_file_to_the_batch(tmp_path: Path, dtype: Any) -> None:
    vectors = vectors_of()
    file = file_of(tmp_path / "look.parquet", vectors, dtype, method="mine")
    manifest = build(random_raw(), tmp_path / "log", content=Content(file))
    assert manifest.data_schema.feature("content").dim == DIM
    spec = sparse_spec(manifest, EmbeddingSettings())
    data = DataConfig(log=str(tmp_path / "log"), label="click", channels={"all": Channel(last=50)})
    batch = next(Reader(data, spec, "train", 0).batches(0))
    ids = pq.read_table(tmp_path / "log" / "items" / "items.parquet")["item_id"].to_pylist()
    found = batch.items.vectors["content"].numpy()
    assert found.dtype == np.float32
    assert found.shape == (len(batch.item), DIM)
    assert {1, 2} < {ids[row] for row in batch.item.tolist()}
    for row, vector in zip(batch.item.tolist(), found, strict=True):
        plain = vectors.get(ids[row], np.zeros(DIM))
        length = np.linalg.norm(plain) if ids[row] in vectors else 1
        assert np.allclose(vector, plain / length, atol=1e-3 if dtype is pl.Float16 else 1e-6)


def test_nothing_else_of_the_log_changes(tmp_path: Path, file: Path) -> None:
    plain = build(random_raw(), tmp_path / "plain")
    manifest = build(random_raw(), tmp_path / "log", content=Content(file, semantic_ids=CODES))
    for name in ("split", "row_groups", "users", "items", "events", "impressions", "positives", "numbers", "priors"):
        assert getattr(manifest, name) == getattr(plain, name), name
    for part in ("events", "users"):
        one, other = (pq.read_table(tmp_path / log / part / "part-00000.parquet") for log in ("plain", "log"))
        assert one.equals(other)
    shared = [f.name for f in SCHEMA.of(Side.ITEM)]
    assert stored(tmp_path / "log", *shared) == stored(tmp_path / "plain", *shared)
    check(tmp_path / "log")


def test_the_manifest_names_file_checksum_range_and_coverage(tmp_path: Path) -> None:
    file = file_of(tmp_path / "look.parquet", vectors_of(), trained_from=3, trained_until=600, time_unit="s")
    manifest = build(random_raw(), tmp_path / "log", content=Content(file))
    assert manifest.content is not None
    assert manifest.content.file.name == "look.parquet"
    assert manifest.content.file.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert manifest.content.info is not None
    assert (manifest.content.info.trained_from, manifest.content.info.trained_until) == (3, 600)
    # The raw items are 0 to 18.
    assert (manifest.content.covered, manifest.content.items) == (15, 19)
    assert "look.parquet has no vector for 4 of 19 items; theirs are zeros" in manifest.notes
    assert build(random_raw(), tmp_path / "plain").content is None


@pytest.mark.parametrize(
    ("split", "until", "unit", "seen"),
    [
        (SPLIT, 600, "s", None),
        (SPLIT, 601, "s", "600"),
        (SPLIT, 600_001, "ms", "600"),
        (SPLIT, 600_000, "ms", None),
        (Split(train_start=200, train_end=600), 200, "s", None),  # a period is scored before it is trained on
        (Split(train_start=200, train_end=600), 201, "s", "200"),
    ],
)
def test_a_source_that_saw_what_is_scored_is_refused_unless_forced(
    tmp_path: Path, split: Split, until: int, unit: str, seen: str | None
) -> None:
    file = file_of(tmp_path / "look.parquet", vectors_of(), trained_until=until, time_unit=unit)
    if seen is None:
        assert "too good" not in " ".join(join_content(Content(file), random_raw(), SCHEMA, split).notes)
        return
    words = rf"learnt from times up to {seen[:-1]}\d, but what comes after {seen} is scored"
    with pytest.raises(DataError, match=words + r"; learn it on the log's training range, .* add --force"):
        join_content(Content(file), random_raw(), SCHEMA, split)
    notes = join_content(Content(file, force=True), random_raw(), SCHEMA, split).notes
    assert notes[0].endswith("is scored, and --force was given: metrics will be too good")


def test_a_source_that_says_nothing_is_doubted(tmp_path: Path) -> None:
    file = file_of(tmp_path / "look.parquet", vectors_of())
    joined = join_content(Content(file), random_raw(), SCHEMA, SPLIT)
    assert joined.source.info is None
    assert joined.notes[0].startswith("nothing says what look.parquet was learnt from: if it has seen times after 600,")


def test_ids_match_whatever_their_type(tmp_path: Path) -> None:
    as_text = file_of(tmp_path / "text.parquet", {str(k): v for k, v in vectors_of().items()}, method="m")
    as_numbers = file_of(tmp_path / "numbers.parquet", vectors_of(), method="m")
    found = [join_content(Content(f), random_raw(), SCHEMA, SPLIT) for f in (as_text, as_numbers)]
    first, second = (j.log.items.collect() for j in found if j.log.items is not None)
    assert first.equals(second)
    assert first["item_id"].dtype == pl.Int64


def test_a_log_without_items_gets_them(tmp_path: Path) -> None:
    clicks = Feature(name="page", kind=Kind.CATEGORY, side=Side.EVENT, table="page")
    raw = simple_raw(page=["p"] * 30)
    file = file_of(tmp_path / "look.parquet", {k: np.eye(2)[k % 2] * 5 for k in range(4)}, method="m")
    build(raw, tmp_path / "log", simple_schema(clicks), SIMPLE_SPLIT, content=Content(file))
    assert stored(tmp_path / "log", "content") == {0: [1, 0], 1: [0, 1], 2: [1, 0], 3: [0, 1], 4: [0, 0]}


def test_the_file_of_another_log_is_refused(tmp_path: Path) -> None:
    file = file_of(tmp_path / "look.parquet", {"x": np.ones(2), "y": np.ones(2)})
    with pytest.raises(DataError, match=r"none of its 2 items is in .* \(its first is 'x', the log's '0'\); is it the"):
        join_content(Content(file), random_raw(), SCHEMA, SPLIT)


def test_names_that_are_taken_are_refused(tmp_path: Path, file: Path) -> None:
    own = SCHEMA.model_copy(
        update={"features": (*SCHEMA.features, Feature(name="content", kind=Kind.TEXT, side=Side.ITEM))}
    )
    with pytest.raises(SchemaError, match=r"has 'content' of its own, a name that --content needs; rename it"):
        join_content(Content(file), random_raw(), own, SPLIT)


def test_codes_are_categories_with_tables_of_their_own(tmp_path: Path, file: Path) -> None:
    manifest = build(random_raw(), tmp_path / "log", content=Content(file, semantic_ids=CODES))
    spec = sparse_spec(manifest, EmbeddingSettings())
    assert {"semantic_id_1", "semantic_id_2", "semantic_id_1_2"} <= {t.name for t in spec.collection()}
    for name in CODES.names():
        ids = pq.read_table(tmp_path / "log" / "vocabulary" / f"{name}.parquet")["id"].to_pylist()
        rows = stored(tmp_path / "log", name)
        assert "none" in ids
        assert rows[1] == rows[2] != rows[3], "items without a vector share a code of their own"
    vectors = vectors_of()
    same = {**vectors, 5: vectors[4] * 3}
    build(
        random_raw(),
        tmp_path / "same",
        content=Content(file_of(tmp_path / "same.parquet", same, method="m"), semantic_ids=CODES),
    )
    codes = stored(tmp_path / "same", *CODES.names())
    assert codes[4] == codes[5], "direction decides, not length"


def test_centres_are_fitted_on_items_of_the_training_range_only(tmp_path: Path, file: Path) -> None:
    """An item first met after it moves no centre, wherever its vector lies."""
    raw = random_raw()
    late = raw.events.collect().with_columns(
        item_id=pl.when((pl.col("item_id") == 7) & (pl.col("time") <= SPLIT.train_end)).then(8).otherwise("item_id")
    )
    raw = dataclasses.replace(raw, events=late.lazy())
    far = file_of(tmp_path / "far.parquet", {**vectors_of(), 7: np.array([50.0, -50, 50, 50])}, method="m")
    wanted = [join_content(Content(f, semantic_ids=CODES), raw, SCHEMA, SPLIT) for f in (file, far)]
    assert len(wanted[0].centres) == 2
    assert all(np.array_equal(a, b) for a, b in zip(wanted[0].centres, wanted[1].centres, strict=True))
    longer = Split(train_end=990, valid_end=993)
    moved = join_content(Content(far, semantic_ids=CODES), raw, SCHEMA, longer)
    assert not np.array_equal(moved.centres[0], wanted[1].centres[0]), "in the training range it does"


def test_more_centres_than_items_are_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"99 centres need as many different vectors of items in the training range"):
        join_content(Content(file, semantic_ids=SemanticIds(2, 99)), random_raw(), SCHEMA, SPLIT)


@pytest.fixture
def old(tmp_path: Path, file: Path) -> Path:
    split = Split(train_end=200, valid_end=800)
    build(random_raw(), tmp_path / "old", split=split, content=Content(file, semantic_ids=CODES))
    return tmp_path / "old"


LATER = Split(train_start=200, train_end=600, valid_end=800)


def test_a_log_that_grows_keeps_what_codes_mean(tmp_path: Path, old: Path, file: Path) -> None:
    def texts(log: Path) -> dict[Any, tuple[str, ...]]:
        found = stored(log, *CODES.names())
        tables = [pq.read_table(log / "vocabulary" / f"{n}.parquet").to_pylist() for n in CODES.names()]
        names = [{r["row"]: r["id"] for r in table} for table in tables]
        return {i: tuple(n[row] for n, row in zip(names, rows, strict=True)) for i, rows in found.items()}

    build(random_raw(), tmp_path / "new", split=LATER, grow=old, content=Content(file, semantic_ids=CODES))
    check(tmp_path / "new")
    assert texts(tmp_path / "new") == texts(old)
    with pytest.raises(DataError, match="codes would mean something else"):
        build(
            random_raw(), tmp_path / "no", split=LATER, grow=old, content=Content(file, semantic_ids=SemanticIds(2, 4))
        )


def test_a_log_that_grows_keeps_the_space_of_its_vectors(tmp_path: Path, old: Path) -> None:
    def grown(name: str, **info: str) -> RawLog:
        file = file_of(tmp_path / f"{name}.parquet", {**vectors_of(), 1: np.ones(DIM)}, **info)
        return join_content(Content(file), random_raw(), SCHEMA, LATER, old).log

    grown("more", method="mine")
    with pytest.raises(DataError, match=r"look.parquet, made by resnet 3; other.parquet is made by resnet 4, so its"):
        grown("other", model="resnet 4")
    with pytest.raises(DataError, match=r"is made by nobody says what"):
        grown("unsaid")
    with pytest.raises(SchemaError, match=r"feature 'content' is gone"):
        build(random_raw(), tmp_path / "without", split=LATER, grow=old)
