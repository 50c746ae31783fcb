"""From a stranger's log to a prepared one without an edit, in every format; overrides; what init writes."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from ctr_rec.errors import DataError
from ctr_rec.prepare.build import prepare_log
from ctr_rec.prepare.flat import late_shares
from ctr_rec.prepare.guess import guess, write, write_recipe
from ctr_rec.prepare.progress import Progress
from ctr_rec.prepare.recipe import load_data_recipe
from ctr_rec.schema.log import Kind, Known, Side, Split
from ctr_rec.schema.manifest import LogManifest
from tests.prepare.logs import write_shop

QUIET = Console(quiet=True)


def prepared(log: Path, recipe: Path, **overrides: str) -> LogManifest:
    """init, then prepare, with nothing in between."""
    write(guess(log, overrides), recipe, QUIET)
    loaded = load_data_recipe(recipe)
    quiet = Progress(quiet=True)
    return prepare_log(loaded, log, recipe.parent / "log", loaded.split(), progress=quiet)[0]


def test_a_strangers_csv_goes_through_without_an_edit(tmp_path: Path) -> None:
    log = write_shop(tmp_path / "My Shop-log.csv")
    manifest = prepared(log, tmp_path / "recipe")
    schema = manifest.data_schema
    assert schema.name == "my_shop_log"
    assert schema.time_unit == "ms"
    told = {f.name: (f.kind, f.side, f.known) for f in schema.features}
    assert told == {
        "item": (Kind.CATEGORY, Side.ITEM, Known.REQUEST),
        "land": (Kind.CATEGORIES, Side.USER, Known.REQUEST),
        "category_name": (Kind.CATEGORY, Side.ITEM, Known.REQUEST),
        "price": (Kind.NUMBER, Side.ITEM, Known.REQUEST),
        "tags": (Kind.CATEGORIES, Side.ITEM, Known.REQUEST),
        "channel": (Kind.CATEGORIES, Side.EVENT, Known.REQUEST),
        "dwell_sec": (Kind.NUMBER, Side.EVENT, Known.ACTION),
    }
    train, valid, test = manifest.impressions
    assert valid / test == pytest.approx(1, abs=0.05)
    assert train / valid == pytest.approx(8, rel=0.05)
    raw = pl.read_csv(log, separator=";", infer_schema=False)
    timed = raw.filter(pl.col("ts_ms").is_not_null() & (pl.col("ts_ms") != ""))
    assert manifest.events == timed.height
    labelled = timed.filter(pl.col("outcome").is_in(["Y", "N"]))
    assert sum(manifest.impressions) == labelled.height
    assert sum(manifest.positives["outcome"]) == (labelled["outcome"] == "Y").sum()
    assert manifest.notes == ()


def test_parquet_with_dates_and_requests(tmp_path: Path) -> None:
    write_shop(tmp_path / "shop.csv")
    frame = pl.read_csv(tmp_path / "shop.csv", separator=";", null_values=["", "NA"], decimal_comma=True)
    frame = frame.drop_nulls("ts_ms").with_columns(pl.from_epoch("ts_ms", time_unit="ms").alias("ts_ms"))
    asked = pl.format("{}-{}", pl.col("Customer No"), pl.col("ts_ms").dt.truncate("1h"))
    frame.with_columns(asked.alias("request_id")).write_parquet(tmp_path / "shop.parquet")
    manifest = prepared(tmp_path / "shop.parquet", tmp_path / "recipe")
    assert manifest.data_schema.time_unit == "ms"
    assert manifest.events == frame.height
    events = pl.read_parquet(tmp_path / "log" / "events")
    assert events["request"].explode().n_unique() < frame.height


@pytest.mark.parametrize("dtype", [pl.Float16, pl.Float32, pl.Float64])
def test_vectors_of_items_in_parquet(tmp_path: Path, dtype: type[pl.DataType]) -> None:
    """A fixed-size list of floats in every row; item 3 never has one, so that its vector is zeros."""
    looks = [[k / 4, -1.0] if k != 3 else None for k in range(12)]
    items = [k * 7 % 12 for k in range(240)]
    frame = pl.DataFrame(
        {
            "user": [f"u{k % 11}" for k in range(240)],
            "item": [f"i{k}" for k in items],
            "time": [1_600_000_000 + 60 * k for k in range(240)],
            "click": [k % 3 % 2 for k in range(240)],
            "look": pl.Series([looks[k] for k in items], dtype=pl.Array(pl.Float64, 2)).cast(pl.Array(dtype, 2)),
        }
    )
    frame.write_parquet(tmp_path / "clicks.parquet")
    manifest = prepared(tmp_path / "clicks.parquet", tmp_path / "recipe")
    look = manifest.data_schema.feature("look")
    assert (look.kind, look.side, look.dim) == (Kind.VECTOR, Side.ITEM, 2)
    stored = pl.read_parquet(tmp_path / "log" / "items" / "items.parquet").sort("item_id")
    assert stored.schema["look"] == pl.Array(pl.Float32, 2)
    expected = {f"i{k}": looks[k] or [0.0, 0.0] for k in range(12)}
    assert dict(zip(stored["item_id"], stored["look"].to_list(), strict=True)) == expected


def test_iso_seconds_commas_and_a_rating(tmp_path: Path) -> None:
    rows = [f"m{k % 7},b{k % 11},{1 + k % 5},2020-01-{1 + k % 28:02d} 10:{k % 60:02d}:00" for k in range(300)]
    (tmp_path / "books.csv").write_text("\n".join(["member,book,stars,day", *rows]) + "\n")
    manifest = prepared(tmp_path / "books.csv", tmp_path / "recipe")
    assert manifest.data_schema.time_unit == "s"
    assert manifest.data_schema.labels == ("stars",)
    assert sum(manifest.positives["stars"]) == 120


def test_actions_keep_their_names(tmp_path: Path) -> None:
    verbs = ["view", "cart", "purchase"]
    rows = [f"{k % 7}\t{k % 11}\t{1_600_000_000 + k * 50}\t{verbs[k % 3]}" for k in range(300)]
    (tmp_path / "v.tsv").write_text("\n".join(["visitorid\titemid\ttimestamp\tevent", *rows]) + "\n")
    manifest = prepared(tmp_path / "v.tsv", tmp_path / "recipe")
    assert manifest.data_schema.actions == ("cart", "purchase", "view", "unknown")
    assert sum(manifest.positives["event"]) == 100


def test_overrides_are_followed(tmp_path: Path) -> None:
    write_shop(tmp_path / "shop.csv")
    text = (tmp_path / "shop.csv").read_text()
    for old, new in (("Customer No", "kunde"), ("Product!", "ding"), ("ts_ms", "zeit"), ("outcome", "ergebnis")):
        text = text.replace(old, new, 1)
    (tmp_path / "shop.csv").write_text(text)
    with pytest.raises(DataError, match="no column looks like the"):
        guess(tmp_path / "shop.csv", {"label": "ergebnis"})
    named = {"user": "kunde", "item": "ding", "time": "zeit", "label": "ergebnis"}
    assert prepared(tmp_path / "shop.csv", tmp_path / "recipe", **named).users == 40


def test_a_hidden_column_after_the_sample_is_still_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctr_rec.prepare.profile.SAMPLED_ROWS", 400)
    log = write_shop(tmp_path / "shop.csv")
    lines = log.read_text().splitlines()
    full = [line for line in lines[1:] if ";app;" in line or ";web;" in line]
    rest = [line for line in lines[1:] if line not in full]
    log.write_text("\n".join([lines[0], *full, *rest]) + "\n")
    manifest = prepared(log, tmp_path / "recipe")
    assert manifest.data_schema.feature("channel").kind is Kind.CATEGORIES


def test_what_is_written_is_python_and_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_shop(tmp_path / "it's a log.csv")
    found = guess(log, {})
    write(found, tmp_path / "a b", Console(width=200))
    printed = capsys.readouterr().out
    for word in ("Customer No", "user", "milliseconds", "named like an outcome", "left out", "ctr-rec prepare '"):
        assert word in printed
    for name in ("schema.py", "build.py", "recipe.py"):
        text = (tmp_path / "a b" / name).read_text()
        ast.parse(text)
        assert text.endswith(")\n")
        assert max(len(line) for line in text.splitlines() if "ctr-rec train" not in line) <= 120
    assert "| `Product!` | item |" in (tmp_path / "a b" / "README.md").read_text()
    before = (tmp_path / "a b" / "schema.py").read_bytes()
    with pytest.raises(DataError, match=r"holds schema\.py, build\.py, README\.md, recipe\.py already"):
        write(found, tmp_path / "a b", QUIET)
    assert (tmp_path / "a b" / "schema.py").read_bytes() == before


@pytest.mark.parametrize(
    ("impressions", "batch", "epochs"), [(0, 64, 10), (5_000, 64, 10), (10_000, 128, 10), (10**8, 4096, 3)]
)
def test_batches_fit_the_size_of_the_log(tmp_path: Path, impressions: int, batch: int, epochs: int) -> None:
    text = write_recipe(tmp_path, "shop", "click", impressions).read_text()
    assert f"Pointwise(impressions={batch})" in text
    assert text.count(f"epochs={epochs})") == 2
    tokens, context = map(int, re.findall(r"Packed\(tokens=(\d+), context=(\d+)\)", text)[0])
    assert 2 * context < tokens
    layers, window = map(int, re.findall(r"HSTUConfig\(layers=(\d+), window=(\d+)\)", text)[0])
    assert layers * window == context


def test_rows_that_are_no_event_are_counted(tmp_path: Path) -> None:
    rows = [f"{k % 7},{k % 11},2020-01-{1 + k % 9:02d},{k % 2}" for k in range(100)]
    rows += ["3,4,soon,1", ",4,2020-01-02,0"]
    (tmp_path / "f.csv").write_text("\n".join(["user,item,time,label", *rows]) + "\n")
    assert guess(tmp_path / "f.csv", {}).notes == ("2 rows have no readable user, item or time and are left out",)


def test_one_instant_cannot_be_split(tmp_path: Path) -> None:
    rows = [f"{k % 7},{k % 11},1600000000,{k % 2}" for k in range(100)]
    (tmp_path / "f.csv").write_text("\n".join(["user,item,time,label", *rows]) + "\n")
    with pytest.raises(DataError, match="at least three different times of labelled events, got 1"):
        guess(tmp_path / "f.csv", {"time": "time"})


def _late_log(path: Path) -> None:
    """Every second user clicks from some time on, one half late in training, one in validation; the first click fills
    the segment."""
    rows = ["user_id,item_id,time,clicked,segment"]
    for k in range(1200):
        user = k % 30
        clicks = user % 2 == 0 and k >= (600 if user % 4 == 0 else 900)
        segment = ("gold", "tin")[user % 8 // 4] if clicks else ""
        rows.append(f"u{user},i{(k * 7) % 50},{1_600_000_000 + 60 * k},{int(clicks)},{segment}")
    path.write_text("\n".join(rows) + "\n")


def test_a_column_that_a_click_fills_tells_no_future(tmp_path: Path) -> None:
    log, recipe, quiet = tmp_path / "late.csv", tmp_path / "recipe", Progress(quiet=True)
    _late_log(log)
    found = guess(log, {})
    (segment,) = (c for c in found.columns if c.column == "segment")
    assert "history only, never the candidate's" in segment.why
    write(found, recipe, QUIET)
    schema = (recipe / "schema.py").read_text()
    declared = re.search(r'Feature\(name="segment".*\)', schema)
    assert declared is not None
    # Who makes it a profile feature all the same gets what was known in training.
    profile = 'Feature(name="segment", kind=Kind.CATEGORIES, side=Side.USER, table="segment")'
    (recipe / "schema.py").write_text(schema.replace(declared.group(), profile))
    loaded = load_data_recipe(recipe)
    split = Split(train_end=1_600_000_000 + 60 * 890, valid_end=1_600_000_000 + 60 * 1100)
    manifest, aucs = prepare_log(loaded, log, tmp_path / "known", split, progress=quiet)
    assert not any("'segment'" in note for note in manifest.notes)
    assert aucs["clicked"]["segment"] < 0.8
    assert late_shares(log, found.map, loaded.schema, split) == {"segment": pytest.approx(7 / 15)}
    # Attributes of the whole period would be a leak.
    whole = Split(train_end=2**40, valid_end=2**41)
    hindsight = replace(loaded, read=lambda raw: loaded.read(raw, whole))
    manifest, aucs = prepare_log(hindsight, log, tmp_path / "hindsight", split, progress=quiet)
    assert aucs["clicked"]["segment"] > 0.9
    assert any("'segment' alone reaches validation AUC" in note for note in manifest.notes)


def test_attributes_that_come_after_training_are_named_with_their_share(tmp_path: Path) -> None:
    """Colours have gaps anywhere; every tenth item has its first one in the last tenth of the log."""
    rows = ["user_id,item_id,time,clicked,colour"]
    for k in range(2000):
        item = (k * 7) % 100
        known = k > 1800 if item % 10 == 0 else k % 3 > 0
        rows.append(f"u{k % 30},i{item},{1_600_000_000 + 60 * k},{k // 2 % 2},{f'c{item % 4}' if known else ''}")
    (tmp_path / "late.csv").write_text("\n".join(rows) + "\n")
    found = guess(tmp_path / "late.csv", {})
    assert found.schema.feature("colour").side is Side.ITEM
    assert found.notes == (
        "column 'colour': 10.0% of the items that have a value get it only after the training range, where it may tell "
        "what they did; it counts as missing for them",
    )


@pytest.mark.parametrize("days", [3, 4])
def test_few_times_leave_no_range_empty(tmp_path: Path, days: int) -> None:
    rows = [f"{k % 7},{k % 11},2020-01-{1 + k % days:02d},{k % 2 if k % 5 else 1}" for k in range(100)]
    (tmp_path / "f.csv").write_text("\n".join(["user,item,time,label", *rows]) + "\n")
    assert min(prepared(tmp_path / "f.csv", tmp_path / "recipe").impressions) > 0
