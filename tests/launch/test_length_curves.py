"""The card of length curves: what it trains and scores, and what it writes of finished runs."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from ctr_rec.batch.config import Alone, Pointwise
from ctr_rec.config import load_recipe, override
from ctr_rec.evaluate import main
from ctr_rec.train.run import Run
from launch.cards.length_curves import LENGTHS, named_entries, own_entries, trained, write_card
from launch.cards.length_plot import AT_TEST, RETRAINED, Panel, Point, table
from tests.evaluate.runs import make_log, train_alone, two_channel_run


@pytest.mark.parametrize("log", ["default", "synthetic"])
@pytest.mark.parametrize("model", ["grab", "hstu", "din"])
def test_what_is_trained_with_a_cut_is_trained_with_that_cut(log: str, model: str) -> None:
    job = trained(Path("runs"), log, model, 3, 32, "valid", {"train.epochs": "2"})
    run = override(load_recipe(job.recipe, Run), [f"{key}={value}" for key, value in job.settings.items()])
    assert isinstance(run.data.batches, Pointwise if model == "din" else Alone)
    assert (run.data.batches.history, run.train.seed, run.train.epochs) == (32, 3, 2)
    assert job.scored == ("valid",)


def test_every_run_has_a_folder_and_every_length_a_score() -> None:
    jobs, entries = own_entries(Path("runs"), ["early"], ["grab", "din"], True, "test", {})
    assert len({job.folder for job in jobs}) == len(jobs) == len(entries) == 2 * 3 * 4
    assert {(e.arm, e.lengths) for e in entries} == {(AT_TEST, (*LENGTHS, None))} | {
        (RETRAINED, (length,)) for length in (8, 32, 128)
    }


def test_runs_that_have_not_ended_are_refused(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match=r"--run expects MODEL=FOLDER of a run that has ended, got 'grab=.*'"):
        named_entries("default", [f"grab={tmp_path}"])


def test_a_card_of_finished_runs(tmp_path: Path) -> None:
    run = train_alone(two_channel_run(make_log(tmp_path / "log")), tmp_path / "run")
    main.evaluate(run, "valid")
    for length in LENGTHS:
        main.evaluate(run, "valid", history=length)
    write_card(named_entries("default", [f"din={run}"]), "valid", tmp_path / "card")
    found = json.loads((tmp_path / "card" / "results.json").read_text())["panels"][0]
    assert [p["length"] for p in found["points"]] == [*LENGTHS, None]
    assert found["points"][-1]["auc"] == found["points"][-2]["auc"]
    assert found["points"][0]["auc"] != found["points"][-1]["auc"]
    assert found["with_history"]["8"] > found["with_history"]["32"] > found["with_history"]["1024"] == 0
    assert "<svg" in (tmp_path / "card" / "curves.svg").read_text()


def test_the_table_gives_mean_and_spread() -> None:
    points = (
        Point("grab", AT_TEST, 8, (0.7, 0.8), (0.5, 0.5)),
        Point("grab", AT_TEST, None, (0.8, 0.8), (0.6, 0.6)),
        Point("grab", RETRAINED, 8, (0.75,), (0.55,)),
    )
    lines = table([Panel("log", 900, {8: 500}, points, {"auc": 0.9, "gauc": 0.85})]).splitlines()
    assert lines[0] == "### `log`, AUC, best reachable 0.9000"
    assert "| model | 8 | whole |" in lines
    assert "| impressions with so much history | 500 | 900 |" in lines
    assert "| grab, cut at test | 0.7500 ± 0.0707 | 0.8000 ± 0.0000 |" in lines
    assert "| grab, trained with the cut | 0.7500 |  |" in lines
