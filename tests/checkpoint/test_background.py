from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from ctr_rec.checkpoint.background import Background, snapshot, snapshot_bytes
from ctr_rec.checkpoint.store import load, save
from ctr_rec.errors import CheckpointError
from ctr_rec.sharding.group import Group, group_beside
from tests.checkpoint.test_store import assert_equal, manifest, start, state_of, whole_state
from tests.ranks import run_ranks
from tests.sharding.test_parallelize import SPREAD, step


def train_while_saving(group: Group, folder: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], bool]:
    """State when the snapshot was taken; state loaded from what was written 40 steps long; whether training moved."""
    parallel, dense = start(group, "rowwise_adagrad", SPREAD)
    beside = group_beside(group)
    for k in range(3):
        step(parallel, dense, k)
    older = snapshot(state_of(parallel, dense))
    step(parallel, dense, 3)
    at_save, copied = whole_state(parallel, dense), snapshot(state_of(parallel, dense), older)
    background, trained = Background(), threading.Event()

    def write() -> None:
        save(folder / "early", copied, manifest(4), {}, beside)
        trained.wait(30)
        save(folder / "late", copied, manifest(4), {}, beside)

    background.start("the save of step 4", write)
    for k in range(4, 44):
        step(parallel, dense, k)
    trained.set()
    assert background.wait() >= 0
    moved = not np.array_equal(whole_state(parallel, dense)["table/item"], at_save["table/item"])
    load(folder / "early", state_of(parallel, dense), group)
    assert_equal(whole_state(parallel, dense), at_save)
    load(folder / "late", state_of(parallel, dense), group)
    return at_save, whole_state(parallel, dense), moved


def test_a_snapshot_written_while_training_goes_on_is_equal_to_the_bit(tmp_path: Path) -> None:
    for at_save, loaded, moved in run_ranks(train_while_saving, 2, tmp_path):
        assert moved
        assert_equal(loaded, at_save)


def test_memory_of_an_earlier_snapshot_is_used_again_where_it_fits() -> None:
    state = {"model": {"a": torch.arange(6.0), "b": torch.zeros(())}, "other": {"lr": 0.5}}
    first = snapshot(state)
    assert snapshot_bytes(state) == snapshot_bytes(first) == 28
    state["model"]["a"] += 1
    grown = {**state, "model": {**state["model"], "b": torch.ones(3)}}
    second = snapshot(grown, first)
    assert second["model"]["a"].data_ptr() == first["model"]["a"].data_ptr()
    assert torch.equal(second["model"]["a"], torch.arange(1.0, 7.0))
    assert torch.equal(second["model"]["b"], torch.ones(3))
    assert second["other"] == {"lr": 0.5}


def test_a_failure_waits_for_whoever_waits() -> None:
    def fail() -> None:
        raise CheckpointError("the disk is full")

    background = Background()
    assert background.wait() == 0.0
    background.start("the save of step 7", fail)
    with pytest.raises(CheckpointError, match=r"^the disk is full$"):
        background.wait()
    assert not background.busy
    assert not background.failed
    background.start("the save of step 8", lambda: [][1])
    with pytest.raises(CheckpointError, match=r"the save of step 8 failed in the background: IndexError"):
        background.wait()
    background.start("the save of step 9", lambda: None)
    assert background.wait() >= 0.0


def test_two_jobs_at_once_are_our_own_mistake() -> None:
    background, go = Background(), threading.Event()
    background.start("one", lambda: go.wait(10))
    with pytest.raises(AssertionError, match="one job at a time"):
        background.start("two", lambda: None)
    assert background.busy
    go.set()
    background.wait()
