"""What grew is printed and kept: one line per step at which the run grew, and the config of before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ctr_rec.checkpoint.grow import Growth
from ctr_rec.checkpoint.manifest import Manifest
from ctr_rec.schema.manifest import LogManifest
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.growth import read_growth, settle_growth
from tests.train.runs import small_run

LOG = LogManifest.model_construct(fingerprint="new")


def growth(step: int, **changed: Any) -> Growth:
    since = Manifest(step=step, data_fingerprint="old", config={"a": 1})
    fields = {"tables": {"item": (40, 1_234), "tab": (0, 5)}, "inputs": ("event.tab",), "new_log": True}
    return Growth(**{**fields, **changed}, since=since)


def test_what_grew_is_printed_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read_growth(tmp_path) == []
    run = small_run(Path("logs/day2"))
    settle_growth(RunFolder(tmp_path), growth(8), run, LOG)
    out = capsys.readouterr().err
    for part in ("grown at step 8", "item  │       40 │    1,234 │   1,194", "none │        5 │       4", "event.tab"):
        assert part in out, part
    assert read_growth(tmp_path) == [
        {
            "step": 8,
            "log": "logs/day2",
            "fingerprint": "new",
            "grown_from": "old",
            "tables": {"item": {"old_rows": 40, "new_rows": 1234}, "tab": {"old_rows": 0, "new_rows": 5}},
            "inputs": ["event.tab"],
        }
    ]
    assert json.loads((tmp_path / "config-before-step-8.json").read_text()) == {"a": 1}
    assert RunFolder(tmp_path).load_run() == run


def test_growing_again_at_a_step_replaces_its_line(tmp_path: Path) -> None:
    for step in (3, 8, 8):
        settle_growth(RunFolder(tmp_path), growth(step), small_run(Path("log")), LOG)
    assert [line["step"] for line in read_growth(tmp_path)] == [3, 8]


def test_nothing_new_is_not_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = growth(8, tables={"item": (40, 40)}, inputs=(), new_log=False)
    settle_growth(RunFolder(tmp_path), nothing, small_run(Path("log")), LOG)
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]
    assert capsys.readouterr().err == ""
