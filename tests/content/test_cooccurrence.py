"""Vectors from who met what: against a plain loop, the same every time, and blind to all after the training range."""

from __future__ import annotations

import dataclasses
import io
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from ctr_rec.content.cooccurrence import content_cooccurrence, factorised, information, pair_counts, training_events
from ctr_rec.errors import ConfigError
from ctr_rec.prepare.content import Content
from ctr_rec.prepare.progress import Progress
from ctr_rec.prepare.raw import RawLog
from ctr_rec.prepare.vectors import read_vectors
from ctr_rec.schema.content import load_info
from ctr_rec.schema.manifest import load_manifest
from tests.prepare.raws import SPLIT, build, random_raw


def learn(log: Path, out: Path, dim: int = 5, window: int = 3) -> pl.DataFrame:
    content_cooccurrence(log, out, dim, window, console=Console(file=io.StringIO()), progress=Progress(quiet=True))
    return read_vectors(out)[0]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs") / "log"
    build(random_raw(), folder)
    return folder


def changed(raw: RawLog, late: bool) -> RawLog:
    """Other items and actions after the training range (late), or inside it."""
    inside = pl.col("time") > SPLIT.train_end if late else pl.col("time") <= SPLIT.train_end
    item = pl.when(inside).then(18 - pl.col("item_id")).otherwise("item_id")
    action = pl.when(inside).then(pl.lit("buy")).otherwise("action")
    return dataclasses.replace(raw, events=raw.events.with_columns(item_id=item, action=action))


def test_counts_are_those_of_a_plain_loop() -> None:
    item, user = np.array([3, 1, 3, 2, 1, 2, 0]), np.array([0, 0, 0, 0, 1, 1, 1])
    expected: Counter[tuple[int, int]] = Counter()
    for i in range(7):
        for j in range(7):
            if user[i] == user[j] and 0 < abs(i - j) <= 2 and item[i] != item[j]:
                expected[int(item[i]), int(item[j])] += 1
    found = pair_counts(item, user, 5, 2).toarray()
    assert {(i, j): found[i, j] for i in range(5) for j in range(5) if found[i, j]} == dict(expected)
    assert pair_counts(item[:0], user[:0], 5, 2).nnz == 0
    assert pair_counts(item[:1], user[:1], 5, 2).nnz == 0


def test_information_is_the_formula() -> None:
    counts = pair_counts(np.array([0, 1, 2, 0, 1, 3, 2, 3]), np.zeros(8, np.int64), 4, 2)
    dense = counts.toarray()
    total, each = dense.sum(), dense.sum(axis=1)
    with np.errstate(divide="ignore"):
        expected = np.maximum(np.log(dense * total / np.outer(each, each)), 0)
    assert np.allclose(information(counts).toarray(), expected)
    assert expected.any()


def test_the_decomposition_is_the_truncated_one() -> None:
    from scipy.sparse import csr_array

    r = np.random.default_rng(0)
    half = r.random((20, 20))
    matrix = half + half.T
    found = factorised(csr_array(matrix), 4, seed=1)
    left, values, _ = np.linalg.svd(matrix)
    expected = left[:, :4] * np.sqrt(values[:4])
    assert np.allclose(np.abs(found), np.abs(expected), atol=1e-8)
    assert all(found[np.abs(found[:, d]).argmax(), d] > 0 for d in range(4))


def test_the_same_vectors_every_time_and_prepare_takes_them(log: Path, tmp_path: Path) -> None:
    first, again = learn(log, tmp_path / "a.parquet"), learn(log, tmp_path / "b.parquet")
    assert first.equals(again)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    info, manifest = load_info(tmp_path / "a.parquet"), load_manifest(log)
    assert info is not None
    assert (info.trained_from, info.trained_until, info.time_unit) == (manifest.time_range[0], SPLIT.train_end, "s")
    assert info.settings["log"] == manifest.fingerprint
    joined = build(random_raw(), tmp_path / "log", content=Content(tmp_path / "a.parquet"))
    assert not [n for n in joined.notes if "too good" in n]


def test_events_after_the_training_range_are_not_read(log: Path, tmp_path: Path) -> None:
    before = learn(log, tmp_path / "a.parquet")
    build(changed(random_raw(), late=True), tmp_path / "late")
    assert learn(tmp_path / "late", tmp_path / "b.parquet").equals(before), "not one bit moves"
    build(changed(random_raw(), late=False), tmp_path / "inside")
    assert not learn(tmp_path / "inside", tmp_path / "c.parquet").equals(before), "what is in it is read"
    manifest = load_manifest(log)
    counted = sum(len(item) for item, _ in training_events(log, manifest))
    assert 0 < counted == random_raw().events.filter(pl.col("time") <= SPLIT.train_end).collect().height


def test_an_item_that_the_training_range_lacks_has_no_vector(tmp_path: Path) -> None:
    raw = random_raw()
    early = (pl.col("item_id") == 4) & (pl.col("time") <= SPLIT.train_end)
    events = raw.events.with_columns(item_id=pl.when(early).then(5).otherwise("item_id"))
    build(dataclasses.replace(raw, events=events), tmp_path / "log")
    ids = learn(tmp_path / "log", tmp_path / "v.parquet")["item_id"].to_list()
    assert 4 not in ids
    assert {3, 5} < set(ids)


def test_more_numbers_than_items_are_refused(log: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"17 items have company in the training range.*vectors of 17 numbers; "):
        learn(log, tmp_path / "v.parquet", dim=17)
