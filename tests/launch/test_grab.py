"""The card of GRAB: its runs are runs, and the time to a goal is added up from the logged rates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ctr_rec.config import load_recipe, override
from ctr_rec.train.run import Run
from launch.cards.grab import MODELS, SEEDS, seconds_to, trained
from launch.cards.movielens_baselines import CUTS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("model", MODELS)
def test_every_model_is_a_run_on_every_cut(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    jobs = [trained(cut, model, seed) for cut in CUTS for seed in SEEDS]
    assert len({job.folder for job in jobs}) == len(jobs)
    for job in jobs:
        run = override(load_recipe(job.recipe, Run), [f"{key}={value}" for key, value in job.settings.items()])
        assert run.data.log == job.settings["data.log"]


def test_seconds_add_up_to_the_first_validation_that_reached_the_goal(tmp_path: Path) -> None:
    """Ten impressions a step: steps 1 to 5 at 10 a second, then at 20; the first epoch ends at step 10."""
    lines = [
        {"kind": "train", "step": 5, "impressions_per_s": 10.0},
        {"kind": "train", "step": 10, "impressions_per_s": 20.0},
        {"kind": "valid", "step": 10, "auc": 0.6},
        {"kind": "train", "step": 20, "impressions_per_s": 20.0},
        {"kind": "valid", "step": 20, "auc": 0.7},
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    assert seconds_to(tmp_path, 0.6, 100) == pytest.approx(5 + 2.5)
    assert seconds_to(tmp_path, 0.65, 100) == pytest.approx(5 + 2.5 + 5)
    assert seconds_to(tmp_path, 0.8, 100) is None
