"""What cannot be followed is refused before anything is written. The rest is in tests/flow/test_following.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ctr_rec.checkpoint.warm_start.config import WarmStart
from ctr_rec.config import override
from ctr_rec.errors import ConfigError
from ctr_rec.sharding.group import open_group
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.follow import _stages, follow, follow_periods
from ctr_rec.train.main import fit
from tests.batch.logs import random_users, write_log
from tests.flow.test_following import packed
from tests.prepare.test_periods import Grid, cut, hourly_raw
from tests.train.runs import run_with_beside, small_run

RECIPE = """
from tests.flow.test_following import packed

def small():
    return packed()
"""


@pytest.fixture(scope="module")
def periods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs") / "periods"
    cut(hourly_raw(events=300), folder, Grid("15h"), 6)
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE)
    return f"{path}:small"


def test_a_recipe_follows(recipe: str, periods: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert follow(recipe, ["train.epochs=1", "validation.patience=2"], periods, tmp_path / "run", resume=False) == 0
    told = capsys.readouterr()
    assert "1970-01-01T0000" in told.out
    assert "validation.patience have no effect: each period is trained for 1 epoch(s)" in told.err


def test_context_below_the_reach_is_refused(periods: Path, tmp_path: Path) -> None:
    run = override(packed(), ["data.batches.context=12", "tower.layers=4"])
    with open_group("cpu") as group:
        with pytest.raises(
            ConfigError, match=r"HSTUConfig reaches 12 events back .* with 6 events of context.*12 or mo"
        ):
            follow_periods(run, periods, RunFolder(tmp_path / "run"), group, resume=False)
        log = override(run, [f"data.log={periods / '1970-01-01T0000'}"])
        with pytest.raises(ConfigError, match="prepare the periods with --context 12 or more"):
            fit(log, RunFolder(tmp_path / "alone"), group, resume=False)
    assert not (tmp_path / "run").exists()


def test_tables_that_begin_again_are_refused(periods: Path, tmp_path: Path) -> None:
    settings = ["train.strategy=multi_epoch_sparse_reset", "train.sparse_reset.min_rows=2"]
    with open_group("cpu") as group, pytest.raises(ConfigError, match="every period would forget what those before it"):
        follow_periods(override(packed(), settings), periods, RunFolder(tmp_path / "run"), group, resume=False)


def test_a_second_network_that_goes_is_refused_before_the_first_period(periods: Path, tmp_path: Path) -> None:
    run = run_with_beside(tmp_path / "log").model_copy(
        update={"warm_start": WarmStart(source=str(tmp_path / "old"), checkpoint="last", dense="beside")}
    )
    run = override(run, ["train.strategy=dual_loss_warm_start", "tower.layers=1"])
    with open_group("cpu") as group, pytest.raises(ConfigError, match="dual_loss_warm_start removes the second netw"):
        follow_periods(run, periods, RunFolder(tmp_path / "run"), group, resume=False)
    assert not (tmp_path / "run").exists()


def test_a_log_of_its_own_has_no_effect(recipe: str, periods: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"takes its logs from its folder, so data.log has no effect; remove it"):
        follow(recipe, ["data.log=logs/x"], periods, tmp_path / "run", resume=False)


def test_a_run_on_another_log_is_not_followed_on(periods: Path, tmp_path: Path) -> None:
    write_log(tmp_path / "log", random_users(seed=3, count=20))
    with open_group("cpu") as group:
        fit(small_run(tmp_path / "log", epochs=1), RunFolder(tmp_path / "run"), group, resume=False)
        with pytest.raises(
            ConfigError, match=r"with fingerprint test, which is no period of .* choose another --run-d"
        ):
            follow_periods(packed(), periods, RunFolder(tmp_path / "run"), group, resume=True)


def test_a_run_that_is_there_is_not_begun_again(periods: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").touch()
    with open_group("cpu") as group, pytest.raises(ConfigError, match="is not empty; add --resume to go on"):
        follow_periods(packed(), periods, RunFolder(tmp_path / "run"), group, resume=False)


def test_the_stages_of_a_period_are_those_behind_the_one_before(tmp_path: Path) -> None:
    lines = [
        {"kind": "stage", "step": 4, "name": "joint", "steps": 4, "seconds": 1.0},
        {"kind": "train", "step": 6},
        {"kind": "stage", "step": 8, "name": "one", "steps": 4, "seconds": 2.00004},
        {"kind": "stage", "step": 9, "name": "two", "steps": 1, "seconds": 3.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = _stages(RunFolder(tmp_path), after=4)
    assert [tuple(stage.values()) for stage in found] == [("one", 4, 2.0), ("two", 1, 3.0)]
