"""What comes back from a checkpoint is what went in; the whole path is in test_trainer.py."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from ctr_rec.checkpoint.history import committed
from ctr_rec.config import override
from ctr_rec.errors import CheckpointError
from ctr_rec.evaluate.predict import predict
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.sharding.group import open_group
from ctr_rec.train.build import build
from ctr_rec.train.checkpoints import load_weights
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.main import fit
from ctr_rec.train.run import Run
from tests.batch.logs import random_users, write_log
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
