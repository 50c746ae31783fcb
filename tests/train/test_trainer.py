"""Stopping and going on: a run that was killed ends as the run that never was, to the bit."""

import json
import os
import shutil
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from ctr_rec.checkpoint.history import best_record, committed, latest
from ctr_rec.checkpoint.manifest import read_manifest
from ctr_rec.config import override
from ctr_rec.errors import CheckpointError, ConfigError
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.main import fit
from ctr_rec.train.run import Run
from ctr_rec.train.seen import read_seen
from ctr_rec.train.trainer import Outcome, seed_everything
from tests.batch.logs import random_users, write_log
from tests.ranks import forkserver, run_ranks
from tests.train.runs import small_run

CLOCKS = {"impressions_per_s", "tokens_per_s", "data_wait_share", "slowest_over_mean", "memory_gb", "seconds"}

# All twenty with `CTR_REC_KILLS=20 pytest tests/train/test_trainer.py`; fewer in every run of the tests.
KILLS = int(os.environ.get("CTR_REC_KILLS", "3"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    log = tmp_path_factory.mktemp("log")
    write_log(log, random_users(seed=3, count=60))
    return small_run(log)


def _fit_alone(run: Run, folder: Path, resume: bool) -> Outcome:
    with open_group("cpu") as group:
        return fit(run, RunFolder(folder), group, resume)


def _fit_on_ranks(group: Group, run: Run, folder: Path, resume: bool) -> str:
    return fit(run, RunFolder(folder), group, resume).end


def _state(folder: Path) -> dict[str, bytes]:
    """Every tensor file of the last checkpoint, and what belongs to the rank, as bytes; not what names the save."""
    named = ("manifest.json", ".metadata")
    return {p.name: p.read_bytes() for p in sorted(latest(folder).iterdir()) if p.name not in named}


def _lines(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in RunFolder(folder).metrics.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCKS} for line in lines]


def _seen(folder: Path) -> np.ndarray:
    return np.sort(read_seen(folder / "seen"), order=["step", "impression"])


def _wait_for_step(process: BaseProcess, folder: Path, step: int, longer: float) -> None:
    """Until the run's log has come to `step`, or the run has ended; then a random moment longer."""
    metrics = RunFolder(folder).metrics
    while process.exitcode is None and not (metrics.is_file() and metrics.read_text().count('"train"') >= step):
        time.sleep(0.002)
    time.sleep(longer)


def test_a_run_killed_again_and_again_ends_bit_identical(run: Run, tmp_path: Path) -> None:
    run = override(run, ["train.log_every=1"])
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _fit_alone(run, whole, False)
    random, kills, steps = np.random.default_rng(7), 0, _lines(whole)[-1]["step"]
    while True:
        if killed.exists() and not committed(killed):
            shutil.rmtree(killed)
        process = forkserver().Process(target=_fit_alone, args=(run, killed, killed.exists()))
        process.start()
        if kills < KILLS:
            _wait_for_step(process, killed, int(random.integers(1, steps)), random.uniform(0, 0.05))
            process.kill()
            kills += 1
        process.join()
        if process.exitcode == 0:
            break
    assert kills == KILLS
    assert _state(killed) == _state(whole)
    assert _lines(killed) == _lines(whole)
    assert np.array_equal(_seen(killed), _seen(whole))
    assert (np.unique(_seen(whole)["impression"], return_counts=True)[1] == run.train.epochs).all()


def test_a_run_asked_to_stop_saves_and_goes_on_to_the_same_end(run: Run, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    _fit_alone(run, whole, False)
    process = forkserver().Process(target=_fit_alone, args=(run, stopped, False))
    process.start()
    while not (stopped / "seen").is_dir():
        time.sleep(0.02)
    time.sleep(0.3)
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join()
    assert process.exitcode == 0
    marker = json.loads(RunFolder(stopped).clean_stop.read_text())
    assert marker["end"] in ("stopped", "finished")
    assert committed(stopped)[-1][0] == marker["step"]
    _fit_alone(run, stopped, True)
    assert _state(stopped) == _state(whole)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_checkpoint_continues_on_any_number_of_ranks_with_the_same_impressions(
    run: Run, tmp_path: Path, ranks: int
) -> None:
    first = override(run, ["train.max_steps=5"])
    assert run_ranks(_fit_on_ranks, 2, first, tmp_path / "run", False) == ["finished"] * 2
    assert run_ranks(_fit_on_ranks, ranks, run, tmp_path / "run", True) == ["finished"] * ranks
    seen = _seen(tmp_path / "run")
    assert (np.unique(seen["impression"], return_counts=True)[1] == run.train.epochs).all()
    whole = tmp_path / "whole"
    _fit_alone(run, whole, False)
    assert np.array_equal(seen, _seen(whole))


def test_validation_that_gets_worse_stops_early_and_keeps_the_best(run: Run, tmp_path: Path) -> None:
    hopeless = override(run, ["validation.patience=1", "train.epochs=30", "dense.lr=0.5", "checkpoint.keep=1"])
    outcome = _fit_alone(hopeless, tmp_path, False)
    assert outcome.end == "early"
    record = best_record(tmp_path)
    assert record is not None
    valid = {line["step"]: line["auc"] for line in _lines(tmp_path) if line["kind"] == "valid"}
    assert record.step == max(valid, key=lambda step: valid[step])
    assert read_manifest(latest(tmp_path)).metrics["auc"] == valid[outcome.position.step]
    assert {step for step, _ in committed(tmp_path)} == {record.step, outcome.position.step}


def test_a_run_that_stopped_early_does_not_train_on_when_resumed(run: Run, tmp_path: Path) -> None:
    hopeless = override(run, ["validation.patience=1", "train.epochs=30", "dense.lr=0.5"])
    first = _fit_alone(hopeless, tmp_path, False)
    again = _fit_alone(hopeless, tmp_path, True)
    assert (again.end, again.position) == ("early", first.position)


def test_a_kill_between_the_best_checkpoint_and_its_mark_is_caught_up_on(run: Run, tmp_path: Path) -> None:
    short = override(run, ["train.epochs=1"])
    _fit_alone(short, tmp_path, False)
    marked = best_record(tmp_path)
    (tmp_path / "checkpoints" / "best.json").unlink()
    _fit_alone(short, tmp_path, True)
    assert marked is not None
    assert best_record(tmp_path) == marked


def test_validation_whose_metric_is_undefined_says_so_and_trains_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    users = random_users(seed=3, count=30)
    for event in (event for user in users for event in user["events"] if event["time"] > 600):
        event["label"] = 0
    write_log(tmp_path / "log", users)
    run = override(small_run(tmp_path / "log"), ["validation.patience=1"])
    assert _fit_alone(run, tmp_path / "run", False).end == "finished"
    assert "auc is undefined (" in capfd.readouterr().err
    assert best_record(tmp_path / "run") is None


@pytest.mark.parametrize("seed", [0, 20261122, 2**53 - 1])
def test_any_seed_that_a_run_accepts_can_be_used(run: Run, seed: int) -> None:
    seed_everything(override(run, [f"train.seed={seed}"]).train.seed, rank=3)


@pytest.mark.parametrize("seed", [-1, 2**53])
def test_a_seed_that_no_generator_takes_is_refused(run: Run, seed: int) -> None:
    with pytest.raises(ConfigError, match=rf"train.seed={seed}: .*, got {seed}"):
        override(run, [f"train.seed={seed}"])


def test_a_decay_over_another_length_is_warned_of_on_resume(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    decaying = override(run, ["train.max_steps=4", "schedule.decay=linear"])
    _fit_alone(decaying, tmp_path, False)
    capfd.readouterr()
    _fit_alone(override(decaying, ["train.max_steps=8"]), tmp_path, True)
    told = capfd.readouterr().err
    assert "the linear decay spans the whole run, which had 4 steps and now has 8: at step 4 the learning" in told
    assert "jump from 0 to 0.5 times their start" in told
    # The same length, said otherwise or not at all, and a constant rate are nothing to warn of.
    _fit_alone(override(decaying, ["train.max_steps=8", "train.epochs=9"]), tmp_path, True)
    assert "decay spans" not in capfd.readouterr().err
    constant = override(run, ["train.max_steps=4"])
    _fit_alone(constant, tmp_path / "constant", False)
    _fit_alone(override(constant, ["train.max_steps=6"]), tmp_path / "constant", True)
    assert "decay spans" not in capfd.readouterr().err


def test_a_label_that_the_log_lacks_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.label is 'bought', but the log .* has liked"):
        _fit_alone(override(run, ["data.label=bought"]), tmp_path, False)


def test_another_log_than_the_checkpoint_saw_is_refused(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "log"
    shutil.copytree(run.data.log, log)
    mine = override(run, [f"data.log={log}", "train.max_steps=2"])
    _fit_alone(mine, tmp_path / "run", False)
    manifest = log / "manifest.json"
    fields = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**fields, "fingerprint": "another"}))
    with pytest.raises(CheckpointError, match=r"fingerprint .* this log has another.*the data changed"):
        _fit_alone(mine, tmp_path / "run", True)
