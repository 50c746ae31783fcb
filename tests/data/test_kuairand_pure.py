"""The KuaiRand-Pure recipe: strongest signals as actions, histories before the log, no leaking statistics."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from ctr_rec.errors import DataError
from ctr_rec.prepare.recipe import load_data_recipe
from ctr_rec.schema.log import Known, Side, Split
from data.kuairand_pure.build import read
from tests.data.folders import ROOT, START, kuairand, real
from tests.prepare.raws import build

FOLDER = ROOT / "data" / "kuairand_pure"
# click, like, follow, comment, forward, hate, long_view
SIGNALS = ["0,0,0,0,0,0,0", "1,0,0,0,0,0,0", "1,0,0,0,0,0,1", "1,1,0,1,0,0,1", "1,1,1,0,0,0,1", "1,1,0,0,0,1,0"]
NAMES = ["none", "click", "long_view", "like", "follow", "hate"]


def histories(folder: Path) -> None:
    rows = {
        "user_id": [0, 1, 2],
        "last_time_ms": [START - 5_000, START + 60_000, START - 9],
        "watch_seq": [[4, 5, 6], [1, 2], []],
        "like_seq": [[5], [], []],
        "long_watch_seq": [[5, 6, 3], [], []],
    }
    pl.DataFrame(rows, schema_overrides={"watch_seq": pl.List(pl.Int64)}).write_parquet(
        folder / "histories_before_0425.parquet"
    )


def test_the_strongest_signal_is_the_action(tmp_path: Path) -> None:
    events = read(kuairand(tmp_path, SIGNALS)).events.collect().filter(pl.col("user_id") == 0)
    assert events["action"].to_list()[: len(NAMES)] == NAMES
    assert events["label_like"].to_list()[:6] == [0, 0, 0, 1, 1, 1]
    assert events["tab"].to_list()[0] == ["1"]
    watched = events["watched"].to_list()
    assert watched[:5] == [["0"], ["0000.05"], ["0000.05"], [], ["0000.25"]], "no duration, no share"
    assert watched[16] == ["0001.00"]


def test_histories_stand_before_the_log_without_labels(tmp_path: Path) -> None:
    histories(kuairand(tmp_path, SIGNALS))
    events = read(tmp_path).events.collect().filter(~pl.col("impression")).sort("user_id", "time")
    told = events.select("user_id", "item_id", "time", "action").rows()
    assert told == [
        (0, 4, START - 7_000, "unknown"),
        (0, 5, START - 6_000, "like"),
        (0, 6, START - 5_000, "long_view"),
        (1, 1, START + 1 - 2_000, "unknown"),
        (1, 2, START + 1 - 1_000, "unknown"),
    ]
    assert events["label_is_click"].null_count() == 5
    assert all(len(t) == 0 for t in events["tab"])


def test_it_prepares_with_its_own_schema(tmp_path: Path) -> None:
    histories(kuairand(tmp_path, SIGNALS))
    recipe = load_data_recipe(FOLDER)
    split = Split(train_end=START + 8_000_000 * 14, valid_end=START + 8_000_000 * 17)
    manifest = build(recipe.read(tmp_path), tmp_path / "log", recipe.schema, split)
    assert manifest.events == 65
    assert sum(manifest.impressions) == 60
    assert manifest.tables["tag"].ids == 7


def test_what_would_leak_is_off() -> None:
    schema = load_data_recipe(FOLDER).schema
    assert schema.of(Side.USER) == []
    assert schema.feature("watched").known is Known.ACTION
    assert len(schema.actions) == len(set(schema.actions)) == 10


def test_the_user_snapshot_can_be_switched_on(tmp_path: Path) -> None:
    for name in ("schema.py", "build.py"):
        text = (FOLDER / name).read_text().replace("WITH_USER_SNAPSHOT = False", "WITH_USER_SNAPSHOT = True")
        (tmp_path / name).write_text(text)
    recipe = load_data_recipe(tmp_path)
    split = Split(train_end=START + 8_000_000 * 14, valid_end=START + 8_000_000 * 17)
    manifest = build(recipe.read(kuairand(tmp_path, SIGNALS)), tmp_path / "log", recipe.schema, split)
    assert manifest.tables["user_active_degree"].rows == 2
    assert manifest.tables["onehot_feat17"].ids == 0


def test_missing_files_name_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing log_standard_4_22_to_5_08_pure\.csv"):
        read(tmp_path)


def test_the_real_log_is_read() -> None:
    raw = read(real("kuairand-pure"))
    counts = raw.events.group_by("impression").len().sort("impression").collect()["len"].to_list()
    assert counts == [817_187, 94_784]
