"""Events of several kinds with fields of their own, from the raw log to the event's vector: absent adds nothing.

A search has words and no price, a purchase a price and no words, a shown item a rank. Absent is an empty list or NaN on
disk, and neither id 0 ("unknown") nor the number 0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch

from ctr_rec.batch.batch import Batch
from ctr_rec.batch.config import DataConfig, Packed
from ctr_rec.batch.reader import Reader
from ctr_rec.errors import DataError
from ctr_rec.layers.embedding import SparseFront
from ctr_rec.layers.fields import join
from ctr_rec.layers.history import EventEncoder
from ctr_rec.prepare.raw import RawLog
from ctr_rec.prepare.single_feature import single_feature_aucs
from ctr_rec.schema.log import Feature, Kind, Known, LogSchema, Side, Split, Vocabulary
from ctr_rec.schema.manifest import LogManifest
from ctr_rec.schema.table import EmbeddingSettings, SparseSpec, sparse_spec
from tests.prepare.raws import build

SHOWN, SEARCH, BUY = "shown", "search", "buy"
SCHEMA = LogSchema(
    name="kinds",
    actions=(SHOWN, SEARCH, BUY),
    labels=("bought",),
    features=(
        Feature(name="thing", kind=Kind.CATEGORY, side=Side.ITEM, table="item"),
        Feature(name="words", kind=Kind.CATEGORIES, side=Side.EVENT, table="word"),
        Feature(name="rank", kind=Kind.NUMBER, side=Side.EVENT, optional=True),
        Feature(name="price", kind=Kind.NUMBER, side=Side.EVENT, known=Known.ACTION, log1p=True, optional=True),
    ),
    vocabularies=(Vocabulary(table="item"), Vocabulary(table="word", min_count=2)),
)
SPLIT = Split(train_end=79, valid_end=89)
ROWS = 100


def _events() -> pl.DataFrame:
    """Kinds take turns; the word of one search is rare and so unknown, another search has none at all."""
    kinds = [(SHOWN, SEARCH, BUY)[k % 3] for k in range(ROWS)]
    words = [["red", "shoe"] if kind == SEARCH else None for kind in kinds]
    words[1], words[4] = ["once"], []
    return pl.DataFrame(
        {
            "user_id": [k // 3 % 4 for k in range(ROWS)],
            "item_id": [k % 7 for k in range(ROWS)],
            "time": list(range(ROWS)),
            "impression": [kind != SEARCH for kind in kinds],
            "action": kinds,
            "label_bought": [None if kind == SEARCH else int(kind == BUY) for kind in kinds],
            "words": pl.Series(words, dtype=pl.List(pl.String)),
            "rank": [float(k % 5) if kind == SHOWN else None for k, kind in enumerate(kinds)],
            "price": [float(k) if kind == BUY else None for k, kind in enumerate(kinds)],
        }
    )


def _prepare(folder: Path, events: pl.DataFrame | None = None, schema: LogSchema = SCHEMA) -> LogManifest:
    things = pl.DataFrame({"item_id": list(range(7)), "thing": [f"t{k}" for k in range(7)]})
    raw = RawLog(events=(_events() if events is None else events).lazy(), items=things.lazy())
    return build(raw, folder, schema, SPLIT)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LogManifest]:
    folder = tmp_path_factory.mktemp("kinds") / "log"
    return folder, _prepare(folder)


def _batch(folder: Path, spec: SparseSpec) -> Batch:
    data = DataConfig(log=str(folder), label="bought", batches=Packed(tokens=1000, context=100), shuffle=False)
    (batch,) = Reader(data.model_copy(update={"workers": 0}), spec, "train", seed=0).batches(0)
    return batch


def _stored(folder: Path) -> list[dict]:
    """One dict per event, user after user."""
    rows = [row for path in sorted(folder.glob("events/*.parquet")) for row in pq.read_table(path).to_pylist()]
    names = ("time", "action", "words", "rank", "price")
    return [
        dict(zip(names, event, strict=True)) for row in rows for event in zip(*(row[n] for n in names), strict=True)
    ]


def test_on_disk_absent_is_empty_and_no_number(log: tuple[Path, LogManifest]) -> None:
    for event in _stored(log[0]):
        kind = SCHEMA.actions[event["action"]]
        assert len(event["words"]) == {1: 1, 4: 0}.get(event["time"], 2 if kind == SEARCH else 0)
        assert np.isnan(event["rank"]) == (kind != SHOWN)
        assert np.isnan(event["price"]) == (kind != BUY)
    rare = next(e for e in _stored(log[0]) if e["time"] == 1)
    assert rare["words"] == [0], "unknown is row 0, absent is no row"


def test_means_and_deviations_are_those_of_the_kinds_that_have_the_number(log: tuple[Path, LogManifest]) -> None:
    train = _events().filter(pl.col("time") <= SPLIT.train_end)
    prices, ranks = np.log1p(train["price"].drop_nulls().to_numpy()), train["rank"].drop_nulls().to_numpy()
    for name, values in {"price": prices, "rank": ranks}.items():
        info = log[1].numbers[name]
        assert (info.mean, info.std) == (pytest.approx(values.mean()), pytest.approx(values.std()))


def test_absent_adds_exactly_nothing_to_an_events_vector(log: tuple[Path, LogManifest]) -> None:
    folder, manifest = log
    spec = sparse_spec(manifest, EmbeddingSettings(dim=4, init_std=0.5))
    batch = _batch(folder, spec)
    torch.manual_seed(0)
    front, encoder = SparseFront(spec, "cpu"), EventEncoder(spec, 4, use_action=True)
    embedded = front(batch)
    item_MD = join(spec.item, embedded.items, batch.items, batch.item.shape[0])
    got = encoder(item_MD, embedded, batch).per_event()
    assert encoder.action is not None
    assert encoder.project is not None
    words, rank, price = encoder.project.weight.split([4, 1, 1], dim=1)
    known = {(e["time"]): e for e in _stored(folder)}
    bare = item_MD[batch.event_item] + encoder.action.weight[batch.event_action]
    seen = set()
    for row, time in enumerate(batch.event_time.tolist()):
        event, kind = known[time], SCHEMA.actions[int(batch.event_action[row])]
        added = got[row] - bare[row]
        seen.add(kind)
        if kind == SEARCH:
            torch.testing.assert_close(added, words @ embedded.events["words"][row], rtol=0, atol=1e-5)
            assert embedded.events["words"][row].any() == (time != 4), "unknown is a vector, absent is none"
        else:
            name, column = ("rank", rank) if kind == SHOWN else ("price", price)
            value = float(np.log1p(event["price"]) if kind == BUY else event["rank"])
            info = manifest.numbers[name]
            torch.testing.assert_close(added, (value - info.mean) / info.std * column[:, 0], rtol=0, atol=1e-5)
            assert not embedded.events["words"][row].any()
        for name, of in {"rank": SHOWN, "price": BUY}.items():
            assert kind == of or batch.events.numbers[name][row] == 0
    assert seen == {SHOWN, SEARCH, BUY}


def test_a_candidate_without_the_number_reads_an_exact_zero(log: tuple[Path, LogManifest]) -> None:
    folder, manifest = log
    batch = _batch(folder, sparse_spec(manifest, EmbeddingSettings(dim=4)))
    ranks = batch.impressions.numbers["rank"].tolist()
    kind = {e["time"]: SCHEMA.actions[e["action"]] for e in _stored(folder)}
    for time, value in zip(batch.impression_time.tolist(), ranks, strict=True):
        assert kind[time] == SHOWN or value == 0
    assert batch.impressions.numbers["rank"].any()
    assert "price" not in batch.impressions.numbers


def test_a_number_that_is_not_optional_may_not_be_absent(tmp_path: Path) -> None:
    plain = tuple(f.model_copy(update={"optional": False}) for f in SCHEMA.features)
    with pytest.raises(
        DataError, match=r"column 'rank' of events .*expected a finite number, got None.* optional where"
    ):
        _prepare(tmp_path / "log", schema=SCHEMA.model_copy(update={"features": plain}))


def test_an_absent_number_is_null_and_not_nan_in_the_raw_log(tmp_path: Path) -> None:
    events = _events().with_columns(pl.col("rank").fill_null(float("nan")))
    with pytest.raises(DataError, match=r"column 'rank' of events .*expected a finite number, got nan.* null in build"):
        _prepare(tmp_path / "log", events)


def test_the_check_for_leaks_takes_absent_numbers_for_their_mean(log: tuple[Path, LogManifest]) -> None:
    found = single_feature_aucs(log[0], log[1], "bought")
    assert 0.5 <= found["rank"] <= 1
