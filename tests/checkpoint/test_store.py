from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctr_rec.checkpoint.manifest import MANIFEST, Manifest, read_manifest
from ctr_rec.checkpoint.state import training_state
from ctr_rec.checkpoint.store import load, read_rank_state, save
from ctr_rec.errors import CheckpointError
from ctr_rec.schema.table import Table
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.sharding.parallelize import Parallel
from tests.ranks import run_ranks
from tests.sharding.test_parallelize import SPREAD, build, step, whole_tables


def start(group: Group, kind: str, sharding: dict[str, str]) -> tuple[Parallel, torch.optim.Optimizer]:
    parallel = build(group, kind, sharding)
    return parallel, torch.optim.AdamW(parallel.dense_parameters.values(), lr=0.01)


def state_of(parallel: Parallel, dense: torch.optim.Optimizer) -> dict[str, Any]:
    return training_state(parallel.model, parallel.fused_optimizer, dense, parallel.dense_parameters)


def whole_state(
    parallel: Parallel, dense: torch.optim.Optimizer, of: list[Table] | None = None
) -> dict[str, np.ndarray]:
    """Every table, every state of either optimizer and every dense weight, whole, whatever the placement."""
    out = {f"table/{k}": v for k, v in whole_tables(parallel, of).items()}
    mine = []
    for entry in parallel.fused_optimizer.state_dict()["state"].values():
        for name, value in entry.items():
            if hasattr(value, "local_shards"):
                mine += [
                    (name, tuple(value.size()), tuple(s.metadata.shard_offsets), s.tensor.numpy().copy())
                    for s in value.local_shards()
                ]
            else:
                mine.append((name, tuple(value.shape), (0,) * value.dim(), value.numpy().copy()))
    for shards in parallel.group.all_gather_object(mine):
        for name, size, offset, values in shards:
            whole = out.setdefault(f"moment/{name}", np.full(size, np.nan, np.float32))
            whole[tuple(slice(o, o + n) for o, n in zip(offset, values.shape, strict=True))] = values
    for name, parameter in parallel.dense_parameters.items():
        out[f"dense/{name}"] = parameter.detach().numpy().copy()
        for key, value in dense.state[parameter].items():
            out[f"adamw/{name}/{key}"] = value.numpy().copy()
    return out


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(found[name], value), f"{name} differs"


def manifest(step_number: int = 0) -> Manifest:
    return Manifest(step=step_number, data_fingerprint="abc")


def train_and_save(
    group: Group, folder: Path, kind: str, sharding: dict[str, str], first: int, more: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], float]:
    """Trains, saves, trains on: the state when saved, the state at the end, and the last loss."""
    parallel, dense = start(group, kind, sharding)
    for k in range(first):
        step(parallel, dense, k)
    torch.manual_seed(group.index)
    save(folder, state_of(parallel, dense), manifest(first), {"random": 1, "own": np.arange(group.index)}, group)
    at_save = whole_state(parallel, dense)
    loss = [step(parallel, dense, k) for k in range(first, first + more)][-1]
    return at_save, whole_state(parallel, dense), loss


def load_and_train(
    group: Group, folder: Path, kind: str, sharding: dict[str, str], more: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], float]:
    parallel, dense = start(group, kind, sharding)
    loaded = load(folder, state_of(parallel, dense), group)
    first = loaded.manifest.step
    at_load = whole_state(parallel, dense)
    loss = [step(parallel, dense, k) for k in range(first, first + more)][-1]
    return at_load, whole_state(parallel, dense), loss


@pytest.mark.parametrize("kind", ["rowwise_adagrad", "sgd"])
def test_resuming_on_the_same_ranks_is_bit_identical(tmp_path: Path, kind: str) -> None:
    saved = run_ranks(train_and_save, 2, tmp_path / "c", kind, SPREAD, 6, 7)
    resumed = run_ranks(load_and_train, 2, tmp_path / "c", kind, SPREAD, 7)
    for (at_save, end, loss), (at_load, resumed_end, resumed_loss) in zip(saved, resumed, strict=True):
        assert_equal(at_load, at_save)
        assert_equal(resumed_end, end)
        assert resumed_loss == loss


def load_elsewhere(group: Group, folder: Path) -> tuple[bool, list[dict[str, Any]]]:
    parallel, dense = start(group, "sgd", {})
    loaded = load(folder, state_of(parallel, dense), group)
    return loaded.rank_state(group) is None, loaded.rank_states


def test_state_of_each_rank_comes_back_to_that_rank_and_to_no_other_count(tmp_path: Path) -> None:
    run_ranks(train_and_save, 2, tmp_path / "c", "sgd", SPREAD, 1, 1)
    for missing, states in run_ranks(load_elsewhere, 3, tmp_path / "c"):
        assert missing
        assert [s["own"].tolist() for s in states] == [[], [0]]
    for missing, _ in run_ranks(load_elsewhere, 2, tmp_path / "c"):
        assert not missing


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A whole checkpoint of one rank with a linear layer."""
    with open_group("cpu") as group:
        save(tmp_path / "step-1", training_state(torch.nn.Linear(64, 64)), manifest(1), {"a": [1]}, group)
    return tmp_path / "step-1"


def load_linear(folder: Path, width: int = 64) -> torch.nn.Linear:
    model = torch.nn.Linear(width, 64)
    with open_group("cpu") as group:
        load(folder, training_state(model), group)
    return model


def test_manifest_lists_every_file_with_size_and_checksum(stored: Path) -> None:
    found = read_manifest(stored)
    assert {f.name for f in found.files} == {p.name for p in stored.iterdir()} - {MANIFEST}
    assert found.world_size == 1
    assert found.versions["torch"] == version("torch")
    load_linear(stored)


def test_no_manifest_is_no_checkpoint(stored: Path) -> None:
    (stored / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match=r"step-1 has no manifest.json: the save was cut short"):
        load_linear(stored)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_linear(stored.parent / "nowhere")


def test_truncated_file_is_named_with_both_sizes(stored: Path) -> None:
    data = max(stored.glob("*.distcp"), key=lambda p: p.stat().st_size)
    size = data.stat().st_size
    data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=rf"{data.name} is damaged: expected {size} bytes, got {size - 100}"):
        load_linear(stored)


def test_changed_byte_is_found(stored: Path) -> None:
    data = max(stored.glob("*.distcp"), key=lambda p: p.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=rf"{data.name} is damaged: expected CRC-32 \w+, got \w+"):
        load_linear(stored)


def test_missing_file(stored: Path) -> None:
    (stored / "rank-00000.npz").unlink()
    with pytest.raises(CheckpointError, match=r"rank-00000\.npz is missing"):
        load_linear(stored)


def test_other_model(stored: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be loaded.*model.weight"):
        load_linear(stored, width=32)
    with open_group("cpu") as group, pytest.raises(CheckpointError, match=r"cannot be loaded.*model.other"):
        load(stored, {"model": {"other": torch.zeros(2)}}, group)


def test_a_checkpoint_is_never_written_over_but_a_torn_one_is(stored: Path) -> None:
    before = (stored / MANIFEST).read_bytes()
    with open_group("cpu") as group:
        with pytest.raises(CheckpointError, match="holds a checkpoint already"):
            save(stored, training_state(torch.nn.Linear(2, 2)), manifest(), {}, group)
        assert (stored / MANIFEST).read_bytes() == before
        (stored / MANIFEST).unlink()
        (stored / "__9_0.distcp").write_text("left over")
        save(stored, training_state(torch.nn.Linear(2, 2)), manifest(), {}, group)
    assert not (stored / "__9_0.distcp").exists()


def test_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with open_group("cpu") as group, pytest.raises(CheckpointError, match=r"cannot make .*file.*choose another"):
        save(tmp_path / "file" / "c", training_state(torch.nn.Linear(2, 2)), manifest(), {}, group)


def digest(folder: Path) -> str:
    parts = [p.name.encode() + p.read_bytes() for p in sorted(folder.iterdir())]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def full_disk_on_rank_one(group: Group, folder: Path, where: str) -> str:
    from ctr_rec.checkpoint import store, writer

    parallel, dense = start(group, "rowwise_adagrad", SPREAD)
    save(folder / "step-1", state_of(parallel, dense), manifest(1), {}, group)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if group.index == 1 and where == "tensors":
        writer.FileSystemWriter.write_data = full  # type: ignore[method-assign]
    if group.index == 1 and where == "own":
        store.write_rank_state = full
    if group.index == 0 and where == "manifest":
        store.write_manifest = full
    try:
        save(folder / "step-2", state_of(parallel, dense), manifest(2), {}, group)
    except CheckpointError as error:
        load(folder / "step-1", state_of(parallel, dense), group)
        return str(error)
    return "saved"


@pytest.mark.parametrize("where", ["tensors", "own", "manifest"])
def test_full_disk_on_one_rank_fails_on_all_and_loses_nothing(tmp_path: Path, where: str) -> None:
    for message in run_ranks(full_disk_on_rank_one, 2, tmp_path, where):
        assert "No space left on device; free space or point --run-dir at another disk" in message
        assert "step-2" in message
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]


def die_in_the_second_save(group: Group, folder: Path, where: str) -> None:
    from ctr_rec.checkpoint import store

    model = torch.nn.Linear(64, 64)
    save(folder / "step-1", training_state(model), manifest(1), {}, group)
    setattr(store, where, lambda *args: os._exit(9))
    save(folder / "step-2", training_state(model), manifest(2), {}, group)


@pytest.mark.parametrize("where", ["_write_tensors", "write_rank_state", "describe_file", "write_manifest"])
def test_a_save_killed_half_way_is_not_taken_for_a_checkpoint(tmp_path: Path, where: str) -> None:
    with pytest.raises(AssertionError, match="ranks ended with"):
        run_ranks(die_in_the_second_save, 1, tmp_path, where)
    assert (tmp_path / "step-2").is_dir()
    load_linear(tmp_path / "step-1")
    with pytest.raises(CheckpointError, match=r"step-2 has no manifest\.json"):
        load_linear(tmp_path / "step-2")
    with open_group("cpu") as group:
        save(tmp_path / "step-2", training_state(torch.nn.Linear(64, 64)), manifest(2), {}, group)
    load_linear(tmp_path / "step-2")


def write_under_a_limit(group: Group, folder: Path) -> str:
    model = torch.nn.Linear(512, 512)
    save(folder / "step-1", training_state(model), manifest(1), {}, group)
    before = digest(folder / "step-1")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        save(folder / "step-2", training_state(model), manifest(2), {}, group)
    except CheckpointError as error:
        assert digest(folder / "step-1") == before
        return str(error)
    return "saved"


def test_a_write_that_the_system_refuses(tmp_path: Path) -> None:
    (message,) = run_ranks(write_under_a_limit, 1, tmp_path)
    assert "cannot write" in message
    assert "step-2" in message
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]


def test_rank_state_is_read_without_pickle(stored: Path) -> None:
    assert read_rank_state(stored, 0) == {"a": [1]}
    np.savez(stored / "rank-00000.npz", json=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CheckpointError, match=r"rank-00000.npz cannot be read"):
        read_rank_state(stored, 0)
    assert json.loads((stored / MANIFEST).read_text())["step"] == 1
