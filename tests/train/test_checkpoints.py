"""What comes back from a checkpoint is what went in; the whole path is in test_trainer.py."""

import errno
import re
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from ctr_rec.checkpoint.background import Background
from ctr_rec.checkpoint.history import checkpoint_folder, committed
from ctr_rec.checkpoint.manifest import read_manifest
from ctr_rec.checkpoint.store import write_rank_state
from ctr_rec.config import override
from ctr_rec.errors import CheckpointError, ConfigError, DataError
from ctr_rec.evaluate.predict import predict
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.files import StorePath, place, remove_tree
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.train.build import build
from ctr_rec.train.checkpoints import load_weights
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.main import fit
from ctr_rec.train.run import Run
from ctr_rec.train.step import Stepper
from tests.batch.logs import random_users, write_log
from tests.ranks import run_ranks
from tests.train.runs import small_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    root = tmp_path_factory.mktemp("trained")
    write_log(root / "log", random_users(seed=2, count=30))
    folder = RunFolder(root / "run")
    with open_group("cpu") as group:
        fit(small_run(root / "log"), folder, group, resume=False)
    return folder


def _predictions(run: Run, folder: RunFolder, which: str) -> Predictions:
    with open_group("cpu") as group:
        built = build(run, group)
        load_weights(folder, built, which)
        return predict(built.parallel.model, built.reader("valid", 0), group, built.item_is_new)


def test_loaded_weights_predict_alike_every_time_and_unlike_a_fresh_start(trained: RunFolder) -> None:
    run = trained.load_run()
    first, again = (_predictions(run, trained, "last") for _ in range(2))
    assert np.array_equal(first.logit, again.logit)
    with open_group("cpu") as group:
        built = build(run, group)
        fresh = predict(built.parallel.model, built.reader("valid", 0), group, built.item_is_new)
    assert not np.allclose(first.logit, fresh.logit)


def test_a_checkpoint_that_is_not_there_lists_what_is(trained: RunFolder) -> None:
    with pytest.raises(CheckpointError, match=r"has no checkpoint 'step-99999'; it has: best, last, step-"):
        _predictions(trained.load_run(), trained, "step-99999")


def test_a_truncated_checkpoint_is_named_with_its_bytes(trained: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(trained.path, tmp_path / "run")
    stored = next(committed(tmp_path / "run")[-1][1].glob("*.distcp"))
    stored.write_bytes(stored.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"distcp is damaged: expected \d+ bytes, got \d+"):
        _predictions(trained.load_run(), RunFolder(tmp_path / "run"), "last")


@pytest.mark.parametrize("file", ["manifest.json", "*.distcp"])
def test_a_damaged_last_checkpoint_tells_the_way_back(trained: RunFolder, tmp_path: Path, file: str) -> None:
    folder = RunFolder(Path(shutil.copytree(trained.path, tmp_path / "run")))
    (*_, earlier), last = [name for _, name in committed(folder.path)][:-1], committed(folder.path)[-1][1]
    damaged = next(last.glob(file))
    damaged.write_bytes(damaged.read_bytes()[:-10])
    longer = override(trained.load_run(), ["train.epochs=3"])
    way = rf"{damaged.name} is .*; or remove .*{last.name} and resume again, from {earlier.name}$"
    with open_group("cpu") as group, pytest.raises(CheckpointError, match=way):
        fit(longer, folder, group, resume=True)
    assert [name for _, name in committed(folder.path)][-2:] == [earlier, last]
    shutil.rmtree(last)
    with open_group("cpu") as group:
        assert fit(longer, folder, group, resume=True).end == "finished"


def test_a_damaged_only_checkpoint_says_so(trained: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(Path(shutil.copytree(trained.path, tmp_path / "run")))
    *others, last = [name for _, name in committed(folder.path)]
    for other in others:
        shutil.rmtree(other)
    (last / "rank-00000.npz").unlink()
    with open_group("cpu") as group, pytest.raises(CheckpointError, match=r"and start anew: there is no earlier one"):
        fit(trained.load_run(), folder, group, resume=True)


def test_what_torch_says_on_a_full_disk_is_told_in_words(
    trained: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(Path(shutil.copytree(trained.path, tmp_path / "run")))
    before = [name for _, name in committed(folder.path)]

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")

    monkeypatch.setattr(FileSystemWriter, "write_data", full)
    longer = override(trained.load_run(), ["train.epochs=3"])
    with open_group("cpu") as group, pytest.raises(CheckpointError, match=r"most likely full; free space or point"):
        fit(longer, folder, group, resume=True)
    assert [name for _, name in committed(folder.path)] == before


def test_going_on_warns_of_nothing_but_what_a_user_can_change(
    trained: RunFolder, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    folder = RunFolder(Path(shutil.copytree(trained.path, tmp_path / "run")))
    with open_group("cpu") as group:
        fit(override(trained.load_run(), ["train.epochs=3"]), folder, group, resume=True)
    assert not [w for w in recwarn if issubclass(w.category, FutureWarning)]


def test_tables_of_another_width_are_refused(trained: RunFolder) -> None:
    run = trained.load_run()
    wider = run.model_copy(update={"embedding": run.embedding.model_copy(update={"dim": 8})})
    with pytest.raises(CheckpointError, match=r"item was 40 x 4, is 40 x 8"):
        _predictions(wider, trained, "last")


def test_random_states_come_back(trained: RunFolder) -> None:
    with np.load(committed(trained.path)[-1][1] / "rank-00000.npz", allow_pickle=False) as stored:
        assert "array.random_torch_cpu" in stored.files
        assert len(stored["array.random_torch_cpu"]) == len(torch.get_rng_state())


def _fit(group: Group, run: Run, folder: Path, full_disk: bool) -> tuple[str, int]:
    """Trains; the first save of rank 1 may meet a full disk. What is said, and the number of steps taken."""
    from ctr_rec.checkpoint import store

    take_step, run_job, steps, done = Stepper.step, Background._run, [], threading.Event()

    def counted(*args: Any) -> Any:
        steps.append(1)
        if full_disk and len(steps) == 6:
            done.wait(30)  # from here on every rank has failed, and the next save is two steps away
        return take_step(*args)

    def run_and_tell(*args: Any) -> None:
        run_job(*args)
        done.set()

    Stepper.step, Background._run = counted, run_and_tell  # type: ignore[method-assign]

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if group.index == 1 and full_disk:
        store.write_rank_state = full
    try:
        return fit(run, RunFolder(folder), group, resume=False).end, len(steps)
    except CheckpointError as error:
        return str(error), len(steps)


@pytest.fixture
def often(trained: RunFolder) -> Run:
    return override(trained.load_run(), ["checkpoint.every=1", "checkpoint.keep=50", "train.epochs=3"])


def test_a_background_save_that_fails_on_one_rank_ends_all_with_its_sentence(often: Run, tmp_path: Path) -> None:
    """At a step's end, before the next save would wait for it."""
    run = override(often, ["checkpoint.every=4", "validation.every=1000"])
    (said, steps), other = run_ranks(_fit, 2, run, tmp_path, True, timeout=60)
    assert "No space left on device; free space" in said
    assert other == (said, steps)
    assert 4 <= steps <= 6
    assert committed(tmp_path) == []
    assert not checkpoint_folder(tmp_path, 4).exists()


def _fit_alone(run: Run, folder: Path) -> None:
    with open_group("cpu") as group:
        assert fit(run, RunFolder(folder), group, resume=False).end == "finished"


def test_one_save_at_a_time_and_the_wait_is_told(
    often: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, wait = threading.Event(), Background.wait

    def slow(*args: Any) -> None:
        waits.wait(30)
        time.sleep(0.1)
        write_rank_state(*args)

    def wait_and_tell(background: Background) -> float:
        waits.set()
        seconds = wait(background)
        waits.clear()
        return seconds

    monkeypatch.setattr("ctr_rec.checkpoint.store.write_rank_state", slow)
    monkeypatch.setattr(Background, "wait", wait_and_tell)
    _fit_alone(override(often, ["train.max_steps=3"]), tmp_path)
    assert re.search(r"waited 0\.\d\d s for the save of step 1, which took", capfd.readouterr().err)
    assert [step for step, _ in committed(tmp_path)] == [1, 2, 3]


def test_a_run_that_ends_with_an_error_lets_the_save_under_way_come_to_its_end(
    often: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*args: Any) -> None:
        time.sleep(0.3)
        write_rank_state(*args)

    def step(*args: Any) -> Any:
        steps.append(1)
        if len(steps) < 4:
            return take_step(*args)
        while not checkpoint_folder(tmp_path, 2).exists():
            time.sleep(0.01)
        raise DataError("row 7 is not what its schema says")

    take_step, steps = Stepper.step, []
    monkeypatch.setattr("ctr_rec.checkpoint.store.write_rank_state", slow)
    monkeypatch.setattr(Stepper, "step", step)
    with pytest.raises(DataError, match="row 7 is not what its schema says"):
        _fit_alone(override(often, ["checkpoint.every=2", "validation.every=1000"]), tmp_path)
    assert [step for step, _ in committed(tmp_path)] == [2]


def test_a_copy_that_does_not_fit_is_told_once_and_saving_holds_training_up(
    often: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctr_rec.train.checkpoints.memory_left", lambda ranks: 100)
    monkeypatch.setattr("ctr_rec.train.checkpoints.snapshot", None)
    _fit_alone(override(often, ["train.max_steps=3"]), tmp_path)
    said = capfd.readouterr().err
    assert said.count("so training stands still while it saves; set checkpoint.asynchronous=false") == 1
    assert [step for step, _ in committed(tmp_path)] == [1, 2, 3]


def test_a_save_too_long_for_a_stop_is_told(
    often: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctr_rec.train.checkpoints.SECONDS_TO_STOP", 0.0)
    _fit_alone(override(often, ["train.max_steps=2"]), tmp_path)
    assert re.search(r"the save of step 1 took \d+ s in the background: launchers kill a job", capfd.readouterr().err)


def test_synchronous_and_asynchronous_saves_write_the_same_bytes(often: Run, tmp_path: Path) -> None:
    found = []
    for name, asynchronous in (("a", "true"), ("b", "false")):
        run = override(often, [f"checkpoint.asynchronous={asynchronous}"])
        _fit_alone(run, tmp_path / name)
        files = (p for _, c in committed(tmp_path / name) for p in sorted(c.iterdir()))
        # Both name the save or the setting.
        found.append({p.relative_to(tmp_path / name): p.read_bytes() for p in files if p.suffix in (".distcp", ".npz")})
    assert found[0] == found[1]
    assert len(found[0]) > 10


def test_a_place_that_cannot_be_written_is_told_before_training(often: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = override(often, [f"checkpoint.folder={tmp_path / 'file' / 'in'}"])
    for said, _ in run_ranks(_fit, 2, run, tmp_path / "run", False):
        assert re.search(r"cannot write to .*file.*choose another --run-dir or checkpoint.folder", said)


def test_a_run_whose_checkpoints_lie_in_a_store_ends_and_resumes_as_one_that_keeps_them(
    often: Run, tmp_path: Path
) -> None:
    here = override(often, ["checkpoint.keep=2"])
    store = place("memory://bucket/run")
    assert isinstance(store, StorePath)
    there = override(here, [f"checkpoint.folder={store}"])
    try:
        _fit_alone(here, tmp_path / "here")
        _fit_alone(override(there, ["train.max_steps=4"]), tmp_path / "there")
        _resume_alone(there, tmp_path / "there")
        assert not (tmp_path / "there" / "checkpoints").exists()
        pairs = list(zip(committed(tmp_path / "here"), committed(tmp_path / "there"), strict=True))
        assert len(pairs) >= 2
        for (step, mine), (same_step, theirs) in pairs:
            assert step == same_step
            assert str(theirs).startswith("memory://bucket/run/step-")
            for file in read_manifest(mine).files:
                if file.name != ".metadata":
                    assert file in read_manifest(theirs).files
        mine, theirs = (_predictions(r, RunFolder(tmp_path / n), "best") for r, n in ((here, "here"), (there, "there")))
        assert np.array_equal(mine.logit, theirs.logit)
        with pytest.raises(ConfigError, match=r"memory://bucket/run holds checkpoints of another run \(step-"):
            _fit_alone(there, tmp_path / "another")
        moved = override(there, ["checkpoint.folder=memory://bucket/moved"])
        with pytest.raises(ConfigError, match=r"folder was memory://bucket/run, is .*/moved, which holds no"):
            _resume_alone(moved, tmp_path / "there")
        store.store.mv(str(store), "memory://bucket/moved", recursive=True)
        _resume_alone(moved, tmp_path / "there")
    finally:
        remove_tree(place("memory://bucket"))


def test_a_scheme_that_nobody_knows_is_refused_before_training(often: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fsspec knows no store for moon://"):
        _fit_alone(override(often, ["checkpoint.folder=moon://crater/run"]), tmp_path)
    assert not (tmp_path / "config.json").exists()


def _resume_alone(run: Run, folder: Path) -> None:
    with open_group("cpu") as group:
        fit(run, RunFolder(folder), group, resume=True)
