"""Epochs whose tables begin again: what goes back, what goes on, and that a killed run does the same."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ctr_rec.checkpoint.history import checkpoint_folder, latest
from ctr_rec.config import override
from ctr_rec.errors import ConfigError
from ctr_rec.sharding.group import open_group
from ctr_rec.sharding.tables import local_shards
from ctr_rec.train.build import build
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.main import fit
from ctr_rec.train.run import Run
from ctr_rec.train.stage import Restart
from ctr_rec.train.start import begin_again, restarted
from ctr_rec.train.trainer import Trainer
from tests.batch.logs import random_users, write_log
from tests.train.runs import small_run

RESET = ["train.strategy=multi_epoch_sparse_reset", "train.sparse_reset.min_rows=20"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    log = tmp_path_factory.mktemp("log")
    write_log(log, random_users(seed=3, count=60))
    return override(small_run(log, epochs=2), RESET)


def _fit(run: Run, folder: Path, resume: bool = False) -> None:
    with open_group("cpu") as group:
        fit(run, RunFolder(folder), group, resume)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(latest(folder).glob("*.distcp"))}


def _weights(run: Run, act: bool) -> tuple[dict[str, Tensor], list[str]]:
    with open_group("cpu") as group:
        built = build(run, group)
        trainer = Trainer(run, RunFolder(Path("unused")), built)
        for batch in built.reader("train", run.train.seed).batches(0):
            trainer.stepper.step(batch, 1.0)
        again = begin_again(built, Restart(min_rows=20)) if act else []
        return {s.table: s.weight.clone() for s in local_shards(built.parallel.model)}, again


def test_large_tables_go_back_and_small_ones_go_on(run: Run) -> None:
    with open_group("cpu") as group:
        built = build(run, group)
        began = {s.table: s.weight.clone() for s in local_shards(built.parallel.model)}
    trained, _ = _weights(run, act=False)
    again, names = _weights(run, act=True)
    large = [name for name, weight in began.items() if weight.shape[0] >= 20]
    assert sorted(names) == sorted(large)
    assert 0 < len(large) < len(began), "the log needs tables on both sides of the bound"
    for name, weight in again.items():
        assert torch.equal(weight, began[name] if name in large else trained[name]), name
        assert not torch.equal(trained[name], began[name]), name


def test_a_run_stopped_at_any_step_resumes_to_the_same_end_and_resets_once(run: Run, tmp_path: Path) -> None:
    _fit(run, tmp_path / "whole")
    wanted = _bytes(tmp_path / "whole")
    steps = RunFolder(tmp_path / "whole").metrics.read_text().count('"train"')
    assert steps > 3
    with open_group("cpu") as group:
        per_epoch = build(run, group).reader("train", run.train.seed).num_batches()
    for stop in (per_epoch - 1, per_epoch, per_epoch + 1):
        folder = tmp_path / f"stopped-{stop}"
        _fit(override(run, [f"train.max_steps={stop}"]), folder)
        assert checkpoint_folder(folder, stop).is_dir()
        _fit(run, folder, resume=True)
        assert _bytes(folder) == wanted, f"stopped after {stop} of {per_epoch} steps per epoch"


def test_without_reset_the_run_ends_elsewhere(run: Run, tmp_path: Path) -> None:
    _fit(run, tmp_path / "with")
    joint = override(run, ["train.sparse_reset.min_rows=10000", "train.strategy=joint"])
    _fit(joint, tmp_path / "without")
    assert _bytes(tmp_path / "with") != _bytes(tmp_path / "without")


def test_a_bound_that_no_table_reaches_is_refused_before_training(run: Run, tmp_path: Path) -> None:
    far = override(run, ["train.sparse_reset.min_rows=100000"])
    with pytest.raises(ConfigError, match=r"min_rows=100000, but no table has so many rows \(the largest, item, has"):
        _fit(far, tmp_path)
    with open_group("cpu") as group:
        tables = build(run, group).spec.tables
    assert restarted(tables, Restart(min_rows=1)) == list(tables)
