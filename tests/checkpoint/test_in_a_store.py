"""Checkpoints whose folder has a scheme: written, committed, listed, cleaned and loaded through fsspec."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ctr_rec.checkpoint.history import best_record, checkpoint_folder, clean, committed, latest, mark_best, root
from ctr_rec.checkpoint.manifest import MANIFEST
from ctr_rec.checkpoint.state import training_state
from ctr_rec.checkpoint.store import load, save
from ctr_rec.errors import CheckpointError
from ctr_rec.files import StorePath, place, remove_tree
from ctr_rec.sharding.group import Group, open_group
from tests.checkpoint.shelf import Shelf
from tests.checkpoint.test_store import assert_equal, manifest, start, state_of, whole_state
from tests.ranks import run_ranks
from tests.sharding.test_parallelize import SPREAD, step


def _run(folder: Path, checkpoints: str) -> Path:
    (folder / "config.json").write_text(json.dumps({"checkpoint": {"folder": checkpoints}}))
    return folder


def test_commit_list_mark_clean_and_load_in_memory(tmp_path: Path) -> None:
    run, model = _run(tmp_path, "memory://bucket/run"), torch.nn.Linear(8, 8)
    assert committed(run) == []
    assert best_record(run) is None
    try:
        with open_group("cpu") as group:
            for number in (1, 2, 3, 4):
                with torch.no_grad():
                    model.weight.fill_(number)
                save(checkpoint_folder(run, number), training_state(model), manifest(number), {"own": [number]}, group)
            (checkpoint_folder(run, 3) / MANIFEST).unlink()
            mark_best(run, 1, "auc", 0.5)
            mark_best(run, 1, "auc", 0.6)
            assert [step for step, _ in committed(run)] == [1, 2, 4]
            assert [p.name for p in clean(run, 1)] == ["step-00000002", "step-00000003"]
            assert sorted(p.name for p in root(run).iterdir()) == ["best.json", "step-00000001", "step-00000004"]
            with torch.no_grad():
                model.weight.zero_()
            loaded = load(latest(run), training_state(model), group)
        assert (model.weight == 4).all()
        assert loaded.rank_states == [{"own": [4]}]
        assert str(latest(run)) == "memory://bucket/run/step-00000004"
        record = best_record(run)
        assert record is not None
        assert record.value == 0.6
    finally:
        remove_tree(place("memory://bucket"))


def _two_ranks(group: Group, folder: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], str]:
    parallel, dense = start(group, "rowwise_adagrad", SPREAD)
    step(parallel, dense, 0)
    state, first = whole_state(parallel, dense), place(folder) / "step-1"
    assert isinstance(first, StorePath)
    save(first, state_of(parallel, dense), manifest(1), {"rank": group.index}, group)
    step(parallel, dense, 1)
    Shelf.refuse = group.index == 1
    with pytest.raises(CheckpointError) as caught:
        save(place(folder) / "step-2", state_of(parallel, dense), manifest(2), {}, group)
    Shelf.refuse = False
    assert load(first, state_of(parallel, dense), group).rank_state(group) == {"rank": group.index}
    return state, whole_state(parallel, dense), str(caught.value)


def test_a_store_that_refuses_one_rank_fails_on_all_and_loses_nothing(tmp_path: Path) -> None:
    for saved, loaded, said in run_ranks(_two_ranks, 2, f"shelf://{tmp_path}"):
        assert_equal(loaded, saved)
        assert "cannot write shelf://" in said
        assert "the store refuses to write" in said
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]


def test_a_damaged_file_in_a_store_is_named(tmp_path: Path) -> None:
    folder = place(f"shelf://{tmp_path}") / "c"
    with open_group("cpu") as group:
        save(folder, training_state(torch.nn.Linear(8, 8)), manifest(), {}, group)
        data = next((tmp_path / "c").glob("*.distcp"))
        data.write_bytes(data.read_bytes()[:-7])
        with pytest.raises(CheckpointError, match=r"shelf://.*distcp is damaged: expected \d+ bytes, got \d+"):
            load(folder, training_state(torch.nn.Linear(8, 8)), group)
