"""What `ctr-rec inspect` says of a log, a run and a checkpoint, and of what is none of them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from ctr_rec.errors import CheckpointError, ConfigError, DataError
from ctr_rec.inspect import describe
from ctr_rec.schema.log import Counter, Feature, Kind, Known, LogSchema, Side, Split, Vocabulary
from ctr_rec.schema.manifest import LogManifest, TableInfo


def said(path: Path) -> tuple[str, str]:
    out = io.StringIO()
    kind = describe(path, Console(file=out, width=200, highlight=False))
    return kind, out.getvalue()


def write_log(folder: Path, last: int = 86_400_000) -> None:
    schema = LogSchema(
        name="toy",
        time_unit="ms",
        features=(
            Feature(name="item_id", kind=Kind.CATEGORY, side=Side.ITEM, table="item"),
            Feature(name="title", kind=Kind.TEXT, side=Side.ITEM),
            Feature(name="dwell", kind=Kind.NUMBER, side=Side.EVENT, known=Known.ACTION),
        ),
        vocabularies=(Vocabulary(table="item"),),
        actions=("none",),
        labels=("clicked",),
        counters=(Counter(name="item_click", by="item", label="clicked"),),
    )
    manifest = LogManifest(
        fingerprint="abcdef0123456789ff",
        data_schema=schema,
        split=Split(train_end=1, valid_end=2),
        tables={"item": TableInfo(rows=1234, ids=1300, out_of_vocabulary_share=0.25)},
        numbers={},
        row_groups=(),
        users=7,
        items=8,
        events=9000,
        impressions=(100, 0, 10),
        positives={"clicked": (25, 0, 1)},
        time_range=(0, last),
        notes=("something odd about it",),
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())


def test_a_time_that_no_calendar_has_is_told_as_it_is(tmp_path: Path) -> None:
    write_log(tmp_path, last=1_700_000_000_000_000)
    assert "1970-01-01 00:00 to 1700000000000000" in said(tmp_path)[1]


def test_a_log_is_told_with_counts_splits_and_features(tmp_path: Path) -> None:
    write_log(tmp_path)
    kind, text = said(tmp_path)
    assert kind == "log"
    for part in (
        "toy, 1970-01-01 00:00 to 1970-01-02 00:00, fingerprint abcdef0123456789",
        "7 users, 8 items, 9,000 events, 110 impressions",
        "25 (0.250)",
        "1,234",
        "25.00%",
        "item_click",
        "history",
        "something odd about it",
    ):
        assert part in text
    assert said(tmp_path / "manifest.json")[0] == "log"


def write_run(folder: Path) -> None:
    config = {"name": "din", "tower": {"kind": "ctr_rec.models.din:DinConfig"}, "data": {"log": "runs/logs/toy"}}
    (folder / "config.json").write_text(json.dumps(config))
    lines = [{"kind": "train", "step": 1, "loss": 0.5}, {"kind": "train", "step": 2, "loss": 0.25}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "train", "st'
    (folder / "metrics.jsonl").write_text(text)


def test_a_killed_run_is_told_from_one_that_ended(tmp_path: Path) -> None:
    write_run(tmp_path)
    kind, text = said(tmp_path)
    assert kind == "run"
    assert "is a run: din, tower DinConfig, log runs/logs/toy" in text
    assert "it is running, or was killed" in text
    assert "last train: step 2, loss 0.25" in text
    assert "checkpoints: none" in text
    (tmp_path / "clean-stop.json").write_text('{"step": 2}')
    (tmp_path / "checkpoints" / "step-2").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-2" / "manifest.json").write_text("{}")
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "test.parquet").touch()
    (tmp_path / "report.html").touch()
    text = said(tmp_path)[1]
    assert "it ended in order: step 2" in text
    assert "checkpoints: step-2" in text
    assert "predictions: test" in text
    assert "cost: " not in text
    (tmp_path / "metrics").mkdir(exist_ok=True)
    cost = {"dense": 1200, "sparse": 34, "flops_per_impression": 2e6, "flops_per_request": None}
    (tmp_path / "metrics" / "test.json").write_text(json.dumps({"cost": cost}))
    assert "cost: " not in said(tmp_path)[1], "written before requests were counted"
    (tmp_path / "metrics" / "valid.json").write_text(json.dumps({"cost": {**cost, "flops_per_request": 9e6}}))
    assert (
        "cost: 1,200 dense parameters, 34 in tables; forward 2.000 MFLOP per impression, 9.000 per request of 60 candi"
        in said(tmp_path)[1]
    )
    assert "report.html" in text


def test_what_is_for_checkpoints_is_refused_for_others(tmp_path: Path) -> None:
    write_log(tmp_path)
    with pytest.raises(ConfigError, match=r"--check is for checkpoints, and .* is a log; name a checkpoint"):
        describe(tmp_path, check=True)
    with pytest.raises(ConfigError, match=r"--out is for checkpoints"):
        describe(tmp_path, out=tmp_path / "plots")


@pytest.mark.parametrize("name", ["step-00000012", "with-rank-files"])
def test_an_unfinished_checkpoint_of_ours_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / ".metadata").touch()
    if name == "with-rank-files":
        (folder / "rank-00000.npz").touch()
    with pytest.raises(CheckpointError, match=r"no manifest\.json: it was never finished"):
        describe(folder)


def test_a_run_whose_checkpoints_lie_elsewhere_says_where(tmp_path: Path) -> None:
    write_run(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "step-00000007").mkdir(parents=True)
    (elsewhere / "step-00000007" / "manifest.json").write_text("{}")
    (elsewhere / "best.json").write_text('{"step": 7, "metric": "auc", "value": 0.75}')
    (tmp_path / "config.json").write_text(json.dumps({**config, "checkpoint": {"folder": str(elsewhere)}}))
    assert f"checkpoints in {elsewhere}: step-00000007; best is step 7, auc 0.75" in said(tmp_path)[1]


def test_a_scheme_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"fsspec knows no store for moon://"):
        describe("moon://crater/run")


def test_a_cut_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"data_schema": ')
    with pytest.raises(DataError, match="is not JSON"):
        describe(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(DataError, match="holds a list, expected an object"):
        describe(tmp_path)


def test_anything_else_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(ConfigError, match=r"is no prepared log .* it holds: photo\.jpg"):
        describe(tmp_path)
    with pytest.raises(ConfigError, match="is a file; give the folder"):
        describe(tmp_path / "photo.jpg")
    with pytest.raises(ConfigError, match="does not exist"):
        describe(tmp_path / "absent")
