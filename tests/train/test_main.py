import json
from pathlib import Path

import pytest

from ctr_rec.errors import ConfigError
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.main import train
from tests.batch.logs import random_users, write_log

RECIPE = """
from pathlib import Path
from tests.train.runs import small_run

def small():
    return small_run(Path({log!r}), epochs=1)

def broken():
    raise RuntimeError("no such luck")

def other():
    return 3
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    write_log(tmp_path / "log", random_users(seed=6, count=15))
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE.format(log=str(tmp_path / "log")))
    return str(path)


def test_a_recipe_becomes_a_run_folder(recipe: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert train(f"{recipe}:small", ["train.seed=5"], folder.path, resume=False) == 0
    assert folder.load_run().train.seed == 5
    assert json.loads(folder.clean_stop.read_text())["end"] == "finished"
    for name in ("environment.json", "inputs.json", "plan.json", "metrics.jsonl", "tensorboard", "checkpoints"):
        assert (folder.path / name).exists(), name


def test_resume_of_a_run_that_never_began_begins_it(recipe: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert train(f"{recipe}:small", [], folder.path, resume=True) == 0
    steps = json.loads(folder.clean_stop.read_text())["step"]
    # Killed before its first checkpoint: the log of the lost steps goes, the run begins again.
    for checkpoint in (folder.path / "checkpoints").glob("step-*"):
        (checkpoint / "manifest.json").unlink()
    assert train(f"{recipe}:small", [], folder.path, resume=True) == 0
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "valid"] == [steps]


def test_growing_needs_something_to_go_on_from(recipe: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--grow goes on from the last checkpoint of a run; add --resume"):
        train(f"{recipe}:small", [], tmp_path / "run", resume=False, grow=True)
    assert not (tmp_path / "run").exists()


def test_a_recipe_that_raises_is_named(recipe: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"recipe.py:broken raises RuntimeError: no such luck"):
        train(f"{recipe}:broken", [], tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()


def test_a_recipe_that_returns_no_run_is_refused(recipe: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must return Run, got int"):
        train(f"{recipe}:other", [], tmp_path / "run", resume=False)
