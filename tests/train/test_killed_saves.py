"""Two ranks are killed while they save in the background, again and again: nothing committed is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctr_rec.checkpoint.history import committed, latest, root
from ctr_rec.checkpoint.manifest import check_file, read_manifest
from ctr_rec.config import override
from ctr_rec.sharding.group import Group
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.main import fit
from ctr_rec.train.run import Run
from tests.batch.logs import random_users, write_log
from tests.ranks import run_ranks, start_ranks
from tests.train.runs import small_run
from tests.train.test_trainer import _lines, _seen, _state

# All fifty with `CTR_REC_SAVE_KILLS=50 pytest tests/train/test_killed_saves.py`; fewer in every run of the tests.
KILLS = int(os.environ.get("CTR_REC_SAVE_KILLS", "3"))
RANKS = 2
# Longer than a save of this run takes, so that some kills come when it is whole.
LONGEST_WAIT = 0.15


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    log = tmp_path_factory.mktemp("log")
    write_log(log, random_users(seed=3, count=60))
    settings = ["checkpoint.every=2", "checkpoint.asynchronous=true", "train.log_every=1", "train.epochs=2"]
    return override(small_run(log), settings)


def _fit(group: Group, run: Run, folder: Path, resume: bool) -> str:
    return fit(run, RunFolder(folder), group, resume).end


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, never killed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run_ranks(_fit, RANKS, run, folder, False) == ["finished"] * RANKS
    return folder


def _torn(folder: Path, since: float = 0.0) -> list[Path]:
    """Checkpoints that were begun and not committed, made after `since`."""
    whole = {path for _, path in committed(folder)}
    begun = [p for p in (folder / "checkpoints").glob("step-*") if p not in whole]
    return [p for p in begun if _changed(p) > since]


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0  # it was just removed


def _kill_while_saving(ranks: list[Any], folder: Path, random: np.random.Generator) -> bool:
    """Waits for a save to begin and kills all ranks at some instant after it. False when the run came to its end."""
    since, saves = time.time(), int(random.integers(1, 4))
    while saves and all(p.exitcode is None for p in ranks):
        time.sleep(0.001)
        if found := _torn(folder, since):
            saves, since = saves - 1, _changed(found[-1])
    time.sleep(random.uniform(0, LONGEST_WAIT))
    alive = [p for p in random.permutation(np.array(ranks, dtype=object)) if p.exitcode is None]
    for process in alive:
        process.kill()
        time.sleep(random.uniform(0, 0.02))
    for process in ranks:
        process.join()
    return len(alive) == RANKS


def _check_what_is_left(folder: Path, before: int) -> int:
    """Every committed checkpoint is whole, and none that was there last time is lost. Returns the newest step."""
    whole = committed(folder)
    for _, path in whole:
        manifest = read_manifest(path)
        assert len(manifest.files) == 2 * RANKS + 1
        for file in manifest.files:
            check_file(path, file)
    newest = whole[-1][0] if whole else 0
    assert newest >= before
    return newest


def test_ranks_killed_while_saving_lose_nothing_and_end_bit_identical(run: Run, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    random, kills, torn, newest = np.random.default_rng(KILLS), 0, 0, 0
    while kills < KILLS:
        meeting = tmp_path / f"meeting-{kills}-{time.time_ns()}"
        meeting.mkdir()
        ranks = start_ranks(_fit, RANKS, str(meeting), run, folder, folder.exists())
        if _kill_while_saving(ranks, folder, random):
            kills += 1
            torn += bool(_torn(folder))
            newest = _check_what_is_left(folder, newest)
        elif [p.exitcode for p in ranks] == [0] * RANKS:
            _same(folder, whole)
            shutil.rmtree(folder)
            newest = 0
    assert run_ranks(_fit, RANKS, run, folder, True) == ["finished"] * RANKS
    _same(folder, whole)
    print(f"{kills} kills, {torn} of them in the middle of a save")


def _same(folder: Path, whole: Path) -> None:
    """Ended as the run that was never killed, with as many checkpoints and nothing half-written."""
    assert _state(folder) == _state(whole)
    assert latest(folder).name == latest(whole).name
    assert not _torn(folder)
    assert [step for step, _ in committed(folder)] == [step for step, _ in committed(whole)]
    assert {p.name for p in root(folder).iterdir()} == {p.name for p in root(whole).iterdir()}
    assert _lines(folder) == _lines(whole)
    assert np.array_equal(_seen(folder), _seen(whole))


def _fit_slowly(group: Group, run: Run, folder: Path) -> str:
    """Every save lasts longer than a step, so that a signal meets one under way."""
    from ctr_rec.checkpoint import store

    write = store.write_rank_state

    def slow(*args: Any) -> None:
        time.sleep(0.4)
        write(*args)

    store.write_rank_state = slow
    return fit(run, RunFolder(folder), group, False).end


def test_ranks_asked_to_stop_while_saving_save_and_go_on_to_the_same_end(run: Run, whole: Path, tmp_path: Path) -> None:
    folder, meeting = tmp_path / "stopped", tmp_path / "meeting"
    meeting.mkdir()
    ranks = start_ranks(_fit_slowly, RANKS, str(meeting), run, folder)
    while not _torn(folder) and all(p.exitcode is None for p in ranks):
        time.sleep(0.005)
    os.kill(ranks[1].pid, signal.SIGTERM)
    for process in ranks:
        process.join(60)
    assert [p.exitcode for p in ranks] == [0] * RANKS
    marker = json.loads(RunFolder(folder).clean_stop.read_text())
    assert marker["end"] == "stopped"
    assert committed(folder)[-1][0] == marker["step"] < committed(whole)[-1][0]
    assert not _torn(folder)
    assert run_ranks(_fit, RANKS, run, folder, True) == ["finished"] * RANKS
    assert _state(folder) == _state(whole)
