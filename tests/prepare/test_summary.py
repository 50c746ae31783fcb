"""The summary says what a reader judges a log by, warnings included."""

from __future__ import annotations

import io
import re
from pathlib import Path

import polars as pl
from rich.console import Console

from ctr_rec.prepare.content import Content
from ctr_rec.prepare.summary import print_summary
from ctr_rec.schema.manifest import LogManifest
from tests.prepare.raws import SPLIT, build, random_raw


def printed(manifest: LogManifest) -> str:
    out = io.StringIO()
    print_summary(manifest, Console(file=out, width=200), {"click": {"page": 0.61, "price": 0.55}})
    return out.getvalue()


def test_everything_is_there(tmp_path: Path) -> None:
    manifest = build(random_raw(), tmp_path / "log")
    text = printed(manifest.model_copy(update={"notes": ("[x] leaks",)}))
    for word in ("events", "users", "items", "density", "action delay", "7 s", "1970-01-01 00:10:00 UTC (600)"):
        assert word in text, word
    for number in (*manifest.impressions, manifest.events, *manifest.positives["buy"]):
        assert f"{number:,}" in text
    assert "user.country" in text
    assert "page 0.610, price 0.550" in text
    assert "warning: [x] leaks" in text


def test_where_content_comes_from_is_said(tmp_path: Path) -> None:
    vectors = pl.DataFrame({"item_id": range(15), "vector": [[1.0, 2.0]] * 15})
    vectors.write_parquet(tmp_path / "look.parquet")
    build_with = Content(tmp_path / "look.parquet")
    assert "look.parquet, of 15 of 19 items" in printed(build(random_raw(), tmp_path / "a", content=build_with))
    (tmp_path / "look.json").write_text('{"method": "images", "model": "resnet 3"}')
    told = printed(build(random_raw(), tmp_path / "b", content=build_with))
    assert "look.parquet, made by resnet 3, of 15 of 19 items" in told


def test_history_before_the_training_range_is_named(tmp_path: Path) -> None:
    manifest = build(random_raw(), tmp_path / "log", split=SPLIT.model_copy(update={"train_start": 300}))
    assert re.search(r"history only +│ 1970-01-01 00:05:00 UTC \(300\)", printed(manifest))


def test_times_off_the_calendar_are_numbers(tmp_path: Path) -> None:
    manifest = build(random_raw(), tmp_path / "log")
    assert str(10**17) in printed(manifest.model_copy(update={"time_range": (0, 10**17)}))
