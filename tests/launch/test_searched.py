"""The card of a search: every model is tried at as many points, each a run, and the best one's settings go on."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ctr_rec.config import load_recipe, override
from ctr_rec.train.run import Run
from launch.cards.jobs import OWN, said
from launch.cards.searched import EPOCHS, SEEDS, Search, check_label, main, points

ROOT = Path(__file__).resolve().parents[2]
KUAIRAND = "launch/recipes/kuairand.py"


def search(model: str, root: Path = Path("runs/x")) -> Search:
    return Search(f"{KUAIRAND}:{model}", model, "logs/kuairand_pure", root)


def test_points_are_every_combination() -> None:
    assert points({"a": ("1", "2"), "b": ("3", "4", "5")}) == [
        {"a": a, "b": b} for a in ("1", "2") for b in ("3", "4", "5")
    ]


@pytest.mark.parametrize("model", ["grab", "hstu", "din", "dcn_v2"])
def test_every_trial_is_a_run_and_models_have_equally_many(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    jobs = search(model).trials()
    assert len({job.folder for job in jobs}) == len(jobs) == 8
    for job in jobs:
        run = override(load_recipe(job.recipe, Run), [f"{key}={value}" for key, value in job.settings.items()])
        assert run.train.epochs == EPOCHS
        assert job.scored == (), "a trial scores nothing"


def test_the_best_trial_decides_and_its_seeds_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    din = search("din", tmp_path)
    for number, job in enumerate(din.trials()):
        job.folder.mkdir()
        # The best of a run counts, not its last.
        values = (0.6, 0.9 if number == 5 else 0.7, 0.5)
        lines = [{"kind": "valid", "step": step, "auc": auc} for step, auc in enumerate(values, 1)]
        (job.folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
        (job.folder / "clean-stop.json").write_text('{"step": 3, "end": "finished"}')
    assert list(din.found().values()).index(0.9) == 5
    assert din.best() == din.points[5]
    seeds = din.seeds()
    assert [job.settings["train.seed"] for job in seeds] == [str(seed) for seed in SEEDS]
    assert all(job.scored == ("valid", "test") for job in seeds)
    assert seeds[0].folder == din.trials()[5].folder, "the trial's run is the first seed's"


def test_a_grid_and_settings_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    grid = {"dense.lr": ["1e-3", "2e-3", "4e-3"]}
    own = Search(f"{KUAIRAND}:din", "din", "logs/x", Path("runs/x"), 1, grid, {"embedding.dim": "8"})
    runs = [
        override(load_recipe(job.recipe, Run), [f"{key}={value}" for key, value in job.settings.items()])
        for job in own.trials()
    ]
    assert [run.dense.lr for run in runs] == [1e-3, 2e-3, 4e-3]
    assert {(run.embedding.dim, run.train.epochs) for run in runs} == {(8, 1)}


@pytest.mark.parametrize("text", ["dense.lr", "=1", "dense.lr="])
def test_a_setting_without_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(click.UsageError, match=f"--grid expects KEY=VALUE, got '{text}'"):
        said([text], "--grid")


def test_what_a_card_sets_itself_is_refused() -> None:
    with pytest.raises(click.UsageError, match=r"--set train\.seed: the card sets that itself; leave it out"):
        said(["dense.clip=1", "train.seed=7"], "--set", OWN)
    with pytest.raises(click.UsageError, match=r"--grid says dense\.lr twice; say it once"):
        said(["dense.lr=1", "dense.lr=2"], "--grid")


def test_a_setting_that_the_grid_moves_is_refused() -> None:
    words = ["--recipes", f"{KUAIRAND}", "--log", "logs/x", "--model", "din", "--card", "runs/no-such-card"]
    found = CliRunner().invoke(main, [*words, "--set", "dense.lr=1e-2"])
    assert found.exit_code == 2
    assert "--set dense.lr: the card sets that itself" in found.output


def test_models_and_counters_are_about_one_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    run = load_recipe(f"{KUAIRAND}:din", Run)
    check_label(run, {}, ["is_click", "long_view"])
    check_label(run, {"data.label": "long_view"}, ["long_view"])
    with pytest.raises(click.UsageError, match=r"trained on 'long_view', item mean and counters .* 'is_click'"):
        check_label(run, {"data.label": "long_view"}, ["is_click", "long_view"])
