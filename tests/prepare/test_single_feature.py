"""Single-feature AUCs: of a leak near 1, of noise near a half, for every kind and side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctr_rec.prepare.raw import RawLog
from ctr_rec.prepare.single_feature import single_feature_aucs, suspicious
from ctr_rec.schema.log import Feature, Kind, Known, LogSchema, Side, Split
from tests.prepare.raws import build, simple_schema

SIDES = {Side.USER: "user_id", Side.ITEM: "item_id"}


def feature(name: str, kind: Kind, side: Side, known: Known = Known.REQUEST) -> Feature:
    table = name if kind in (Kind.CATEGORY, Kind.CATEGORIES) else None
    return Feature(name=name, kind=kind, side=side, table=table, known=known)


def planted(n: int = 3000) -> tuple[RawLog, LogSchema]:
    """The label is the item's parity; several features tell it, others do not."""
    r = np.random.default_rng(0)
    item, user = r.integers(0, 40, n), r.integers(0, 30, n)
    label = item % 2
    events = pl.DataFrame(
        {
            "user_id": user,
            "item_id": item,
            "time": np.arange(n),
            "action": label,
            "label_click": label,
            "told": 5.0 - 3.0 * label,
            "noise": r.random(n),
            "sort": [["odd", "even"][v] for v in label],
            "tags": [["odd"] if v else [] for v in label],
            "after": label.astype(float),
        }
    )
    items = pl.DataFrame({"item_id": range(40), "parity": [str(k % 2) for k in range(40)]})
    users = pl.DataFrame({"user_id": range(30), "age": r.random(30)})
    schema = simple_schema(
        feature("told", Kind.NUMBER, Side.EVENT),
        feature("noise", Kind.NUMBER, Side.EVENT),
        feature("sort", Kind.CATEGORY, Side.EVENT),
        feature("tags", Kind.CATEGORIES, Side.EVENT),
        feature("after", Kind.NUMBER, Side.EVENT, Known.ACTION),
        feature("parity", Kind.CATEGORY, Side.ITEM),
        feature("age", Kind.NUMBER, Side.USER),
    )
    return RawLog(events=events.lazy(), items=items.lazy(), users=users.lazy()), schema


def test_leaks_are_told_from_noise(tmp_path: Path) -> None:
    raw, schema = planted()
    manifest = build(raw, tmp_path / "log", schema, Split(train_end=2000, valid_end=2500), partition_events=1000)
    aucs = single_feature_aucs(tmp_path / "log", manifest, "click")
    for name in ("told", "sort", "tags", "parity"):
        assert aucs[name] == pytest.approx(1.0), name
    for name in ("noise", "age"):
        assert aucs[name] < 0.6, name
    assert "after" not in aucs, "a feature that is known with the action describes no candidate"
    said = suspicious(aucs, "click")
    assert len(said) == 4
    assert all("Known.ACTION or remove it" in s for s in said)


def test_a_category_is_judged_by_its_training_mean_alone(tmp_path: Path) -> None:
    raw, schema = planted()
    # Each id comes back once in the validation range: its label there would tell everything, the earlier ones nothing.
    events = raw.events.with_columns(pl.format("s{}", pl.col("time") % 500).alias("sort"))
    raw = RawLog(events=events, items=raw.items, users=raw.users)
    manifest = build(raw, tmp_path / "log", schema, Split(train_end=1999, valid_end=2499))
    assert single_feature_aucs(tmp_path / "log", manifest, "click")["sort"] < 0.6


def test_one_class_in_validation_has_no_auc(tmp_path: Path) -> None:
    raw, schema = planted(60)
    events = raw.events.with_columns(pl.when(pl.col("time") < 40).then("label_click").otherwise(0).alias("label_click"))
    raw = RawLog(events=events, items=raw.items, users=raw.users)
    manifest = build(raw, tmp_path / "log", schema, Split(train_end=39, valid_end=50))
    assert single_feature_aucs(tmp_path / "log", manifest, "click") == {}
    assert manifest.notes == ()
