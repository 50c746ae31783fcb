"""The cards of the strategies: every arm is a run that its strategy accepts, in a folder of its own."""

from pathlib import Path

import pytest

from ctr_rec.config import load_recipe, override
from ctr_rec.train.run import Run
from ctr_rec.train.strategies import stages
from launch.cards import dual_loss, est_epochs, sts
from launch.cards.curves import Curve, by_epoch
from launch.cards.jobs import Trained

ROOT = Path(__file__).resolve().parents[2]


def _jobs() -> dict[str, Trained]:
    found = {f"sts, {arm.name}": arm.job(arm.rates[0], 1, True) for arm in sts.ARMS}
    for name, (arm, more) in sts.LONG.items():
        found[f"sts epochs, {name}"] = sts.Arm(name, arm.recipe, arm.settings).job("0.05", 1, False, more)
    found |= {f"dual, {arm.name}": arm.job(1) for arm in dual_loss.ARMS}
    return found | {f"EST's epochs, {arm}": est_epochs.job(arm, 1) for arm in est_epochs.ARMS}


JOBS = _jobs()


@pytest.mark.parametrize("name", JOBS)
def test_an_arm_is_a_run_that_its_strategy_accepts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    job = JOBS[name]
    run = override(load_recipe(job.recipe, Run), [f"{key}={value}" for key, value in job.settings.items()])
    assert stages(run)
    assert job.beside == (run.beside is not None and bool(job.scored))


def test_epochs_of_est_begin_again_where_the_arm_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    begin = {}
    for arm in est_epochs.ARMS:
        job = est_epochs.job(arm, 1)
        run = override(load_recipe(job.recipe, Run), [f"{key}={value}" for key, value in job.settings.items()])
        begin[arm] = [stage.restart and stage.restart.fresh for stage in stages(run) if stage.restart is not None]
        assert (run.warm_start is not None) == arm.startswith("warm")
    assert begin == {
        "warm, tables go on": [],
        "warm, back to the start": [None] * 4,
        "warm, then drawn anew": [1, 2, 3, 4],
        "cold, tables go on": [],
    }


def test_the_table_of_epochs_pairs_the_last_one_with_the_first() -> None:
    curves = [Curve((1, 2, 3), (0.6, 0.7, 0.65)), Curve((1, 2, 3), (0.7, 0.76, 0.79))]
    head, _, row = by_epoch({"arm": curves}, 3).splitlines()
    assert head == "| run | after 1 | after 2 | after 3 | 3 - 1, paired |"
    assert row == "| arm | 0.6500 ± 0.0707 | 0.7300 ± 0.0424 | 0.7200 ± 0.0990 | +0.0700 ± 0.0283 |"


def test_arms_have_folders_of_their_own() -> None:
    assert len({job.folder for job in JOBS.values()}) == len(JOBS)


def test_what_the_network_beside_a_model_lacks_is_scored_too(tmp_path: Path) -> None:
    job = Trained(tmp_path, "recipe", {}, ("valid",), beside=True)
    assert job._to_score() == [("valid", []), ("valid", ["--branch", "beside"])]
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "valid.json").write_text("{}")
    assert job._to_score() == [("valid", ["--branch", "beside"])]


def test_the_original_is_followed_to_where_it_left(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"train": {"dual_loss": {"fade_steps": 5}}}')
    lines = [
        '{"kind": "valid", "step": 10, "auc": 0.6, "beside_auc": 0.7}',
        '{"kind": "train", "step": 12}',
        '{"kind": "valid", "step": 20, "auc": 0.72, "beside_auc": 0.71}',
        '{"kind": "valid", "step": 30, "auc": 0.73}',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert dual_loss.original(tmp_path) == {"auc": {10: 0.7, 20: 0.71}, "reached_at": 20, "gone_after": 25}
