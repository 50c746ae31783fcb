"""The synthetic recipe: one JSON in, a prepared log with its truth out."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctr_rec.errors import ConfigError
from ctr_rec.prepare.build import prepare
from ctr_rec.prepare.progress import Progress
from ctr_rec.prepare.recipe import load_data_recipe, read_raw
from ctr_rec.prepare.synthetic import TRUTH, best_metrics
from tests.data.folders import ROOT

FOLDER = ROOT / "data" / "synthetic"


def test_one_json_becomes_a_log_with_a_known_best(tmp_path: Path) -> None:
    raw = tmp_path / "small.json"
    raw.write_text('{"users": 200, "requests_per_user": 5}')
    manifest = prepare(FOLDER, raw, tmp_path / "log", progress=Progress(quiet=True))
    assert min(manifest.impressions) > 100
    assert [s.name for s in manifest.sources] == ["config.json", "events.parquet", "items.parquet"]
    assert (tmp_path / "log" / TRUTH).is_file()
    assert 0.6 < best_metrics(tmp_path / "log")["auc"] < 0.95


def test_settings_that_contradict_the_schema_are_refused(tmp_path: Path) -> None:
    raw = tmp_path / "late.json"
    raw.write_text('{"users": 20, "requests_per_user": 2, "action_delay": 60}')
    recipe = load_data_recipe(FOLDER)
    with pytest.raises(ConfigError, match=r"expected the settings that schema.py declares \(action_delay 0.*got 60"):
        read_raw(recipe, raw, recipe.split())


def test_the_default_settings_are_the_defaults() -> None:
    assert (FOLDER / "default.json").read_text().strip() == "{}"
