"""The synthetic recipe: one JSON in, a prepared log with its truth out."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctr_rec.batch.planted_content import ContentEffects
from ctr_rec.errors import ConfigError
from ctr_rec.prepare.build import prepare
from ctr_rec.prepare.progress import Progress
from ctr_rec.prepare.recipe import load_data_recipe
from ctr_rec.prepare.synthetic import TRUTH, best_metrics, log_schema, read_settings
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


def test_the_settings_decide_the_schema(tmp_path: Path) -> None:
    raw = tmp_path / "late.json"
    raw.write_text(
        '{"users": 60, "requests_per_user": 4, "action_delay": 60, "scenes": 3, "clusters": 6, "content_dim": 16}'
    )
    manifest = prepare(FOLDER, raw, tmp_path / "log", progress=Progress(quiet=True))
    assert manifest.data_schema.action_delay == 60
    assert manifest.data_schema.feature("content").dim == 16
    assert manifest.tables["scene"].rows == 4
    assert load_data_recipe(FOLDER).schema.action_delay == 0


def test_settings_that_are_none_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"users": 60, "episode": 3}')
    with pytest.raises(ConfigError, match=r"bad.json: .*episode needs items that are alike, expected clusters >= 2"):
        prepare(FOLDER, tmp_path / "bad.json", tmp_path / "log", progress=Progress(quiet=True))
    assert not (tmp_path / "log").exists()


def test_the_presets_can_be_made() -> None:
    scale = read_settings(FOLDER / "scale.json")
    assert 100_000 < scale.users * scale.requests_per_user * scale.candidates < 200_000
    assert all(getattr(scale.effects, name) for name in ContentEffects.model_fields)
    assert log_schema(scale).feature("scene").table == "scene"
    assert read_settings(FOLDER / "long.json").effects.long_term


def test_the_default_settings_are_the_defaults() -> None:
    assert (FOLDER / "default.json").read_text().strip() == "{}"
