"""Small raw logs for the tests of prepare: recipes held in memory, a random log with every hard case, an oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from ctr_rec.prepare.build import prepare_log
from ctr_rec.prepare.content import Content
from ctr_rec.prepare.progress import Progress
from ctr_rec.prepare.raw import RawLog
from ctr_rec.prepare.recipe import DataRecipe
from ctr_rec.schema.log import Counter, Feature, Kind, Known, LogSchema, Side, Split, Vocabulary
from ctr_rec.schema.manifest import LogManifest

SPLIT = Split(train_end=600, valid_end=800)
SCHEMA = LogSchema(
    name="small",
    action_delay=7,
    actions=("skip", "click", "buy"),
    labels=("click", "buy"),
    features=(
        Feature(name="country", kind=Kind.CATEGORY, side=Side.USER, table="country"),
        Feature(name="income", kind=Kind.NUMBER, side=Side.USER),
        Feature(name="thing", kind=Kind.CATEGORY, side=Side.ITEM, table="item"),
        Feature(name="tags", kind=Kind.CATEGORIES, side=Side.ITEM, table="tag"),
        Feature(name="price", kind=Kind.NUMBER, side=Side.ITEM, log1p=True),
        Feature(name="look", kind=Kind.VECTOR, side=Side.ITEM, dim=3),
        Feature(name="title", kind=Kind.TEXT, side=Side.ITEM),
        Feature(name="page", kind=Kind.CATEGORY, side=Side.EVENT, table="page"),
        Feature(name="words", kind=Kind.CATEGORIES, side=Side.EVENT, table="word"),
        Feature(name="dwell", kind=Kind.NUMBER, side=Side.EVENT, known=Known.ACTION),
    ),
    vocabularies=(
        Vocabulary(table="country"),
        Vocabulary(table="item", min_count=3),
        Vocabulary(table="tag"),
        Vocabulary(table="page"),
        Vocabulary(table="word", hash_rows=11),
    ),
    counters=(
        Counter(name="item_click", by="item", label="click"),
        Counter(name="user_buy", by="user", label="buy"),
    ),
)
ACTIONS = SCHEMA.actions


def random_raw(seed: int = 0, users: int = 23, items: int = 17, events: int = 900) -> RawLog:
    """Ties, interleaved requests, events without a label or a request, absent lists, items seen once."""
    r = np.random.default_rng(seed)
    user = r.integers(0, users, events)
    time = r.integers(0, 250, events) * 4
    request = time // 40 * 100 + r.integers(0, 3, events)
    action = r.integers(0, 3, events)
    impression = r.random(events) < 0.8
    frame = pl.DataFrame(
        {
            "user_id": [f"u{u}" for u in user],
            "item_id": np.minimum(r.geometric(0.12, events), items),
            "time": time,
            "request": [f"r{q}" if r.random() < 0.9 else None for q in request],
            "impression": impression,
            "action": [ACTIONS[a] for a in action],
            "label_click": [int(a > 0) if i else None for a, i in zip(action, impression, strict=True)],
            "label_buy": [bool(a == 2) if i else None for a, i in zip(action, impression, strict=True)],
            "page": [f"p{p}" for p in r.integers(0, 4, events)],
            "words": [[f"w{w}" for w in r.integers(0, 9, r.integers(0, 4))] for _ in range(events)],
            "dwell": r.random(events),
        }
    )
    people = pl.DataFrame(
        {
            "user_id": [f"u{u}" for u in range(users)],
            "country": [["de", "fr", "it"][u % 3] for u in range(users)],
            "income": r.normal(size=users),
        }
    )
    things = pl.DataFrame(
        {
            "item_id": np.arange(items + 2),
            "thing": [f"t{k}" for k in range(items + 2)],
            "tags": [[["a", "b", "c"][j] for j in range(k % 4)] for k in range(items + 2)],
            "price": r.random(items + 2) * 100,
            "look": r.normal(size=(items + 2, 3)),
            "title": [None if k == 2 else f"thing {k}" for k in range(items + 2)],
        }
    )
    return RawLog(events=frame.lazy(), users=people.lazy(), items=things.lazy())


def recipe_of(raw: RawLog, schema: LogSchema = SCHEMA, split: Split = SPLIT) -> DataRecipe:
    return DataRecipe(folder=Path("data/small"), schema=schema, splits={"default": split}, read=lambda _: raw)


def build(
    raw: RawLog,
    out: Path,
    schema: LogSchema = SCHEMA,
    split: Split = SPLIT,
    *,
    partition_events: int = 10**6,
    row_group_events: int = 200,
    overwrite: bool = False,
    grow: Path | None = None,
    content: Content | None = None,
) -> LogManifest:
    """Prepares an in-memory raw log, quietly."""
    manifest, _ = prepare_log(
        recipe_of(raw, schema, split),
        out.parent,
        out,
        split,
        partition_events=partition_events,
        row_group_events=row_group_events,
        overwrite=overwrite,
        progress=Progress(quiet=True),
        grow=grow,
        content=content,
    )
    return manifest


def simple_raw(rows: int = 30, **columns: list) -> RawLog:
    """One impression per second by three users; `columns` replace or add columns of the events."""
    data: dict[str, list] = {
        "user_id": [k % 3 for k in range(rows)],
        "item_id": [k % 5 for k in range(rows)],
        "time": list(range(rows)),
        "action": [k % 2 for k in range(rows)],
        "label_click": [k % 2 for k in range(rows)],
        **columns,
    }
    return RawLog(events=pl.DataFrame(data, strict=False).lazy(), sources=())


def simple_schema(*features: Feature) -> LogSchema:
    """Actions and label of `simple_raw`, with the given features, each with a table of its own name."""
    tables = [Vocabulary(table=f.table) for f in features if f.table is not None]
    return LogSchema(
        name="simple", actions=("no", "yes"), labels=("click",), features=features, vocabularies=tuple(tables)
    )


SIMPLE_SPLIT = Split(train_end=19, valid_end=24)
