"""Saving and loading: data by all ranks, then the manifest by one. No manifest, no checkpoint.

A save never touches what an earlier save wrote, so whatever cuts it short (a kill, a full disk), the checkpoint before
it stays whole. A load works on any number of ranks and under any placement of the tables.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_distributed
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from ctr_rec.checkpoint.manifest import (
    MANIFEST,
    Manifest,
    StoredFile,
    check_file,
    describe_file,
    read_manifest,
    versions,
    write_manifest,
)
from ctr_rec.checkpoint.safe_reader import SafeLoadPlanner, SafeReader
from ctr_rec.errors import CheckpointError
from ctr_rec.files import sync_folder
from ctr_rec.sharding.group import Group

T = TypeVar("T")
RankState = Mapping[str, Any]


@dataclass(frozen=True)
class Loaded:
    """manifest: of the checkpoint. rank_states: what each rank that saved it passed as `per_rank`, in rank order."""

    manifest: Manifest
    rank_states: list[dict[str, Any]]

    def rank_state(self, group: Group) -> dict[str, Any] | None:
        """This rank's own state, or None when the checkpoint comes from another number of ranks."""
        return self.rank_states[group.index] if self.manifest.world_size == group.size else None


def save(folder: Path, state: dict[str, Any], manifest: Manifest, per_rank: RankState, group: Group) -> Manifest:
    """Writes a checkpoint; all ranks call it. Returns the manifest as stored.

    Args:
        folder: new; what an unfinished save left there is removed first.
        state: tensors, sharded tensors and nested dicts of them, as `training_state` returns.
        manifest: its `files`, `versions` and `world_size` are filled in here.
        per_rank: arrays, tensors and JSON values of this rank.

    Raises:
        CheckpointError: on all ranks, when the folder holds a checkpoint already or some rank cannot write. What was
            written of this checkpoint is removed; earlier ones are untouched.
    """
    _on_main(group, f"cannot make {folder}", lambda: _make_folder(folder))
    try:
        _write_tensors(folder, state, group)
        own = _on_all(group, f"cannot write {folder}", lambda: _write_own(folder, per_rank, group.index))
        files = sorted((f for part in own for f in part), key=lambda f: f.name)
        complete = manifest.model_copy(update={"files": tuple(files), "versions": versions(), "world_size": group.size})
        _on_main(group, f"cannot write {folder / MANIFEST}", lambda: write_manifest(folder, complete))
    except CheckpointError:
        # A full disk stays full while half a checkpoint lies on it.
        group.barrier()
        if group.is_main:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return complete


def load(folder: Path, state: dict[str, Any], group: Group, check: bool = True) -> Loaded:
    """Reads a checkpoint into the live tensors of `state`; all ranks call it, on any number of ranks.

    Args:
        state: as `training_state` returns it; may hold less than the checkpoint, but nothing that is not in it.
        check: compare every file with the manifest's size and CRC-32 first.

    Raises:
        CheckpointError: on all ranks: no manifest, damaged or missing files, a tensor that is absent or of another
            size, or content that would have to run code to be read.
    """
    manifest = _on_all(group, f"cannot read {folder}", lambda: read_manifest(folder))[group.index]
    if check:
        share = manifest.files[group.index :: group.size]
        _on_all(group, f"cannot read {folder}", lambda: [check_file(folder, f) for f in share])
    try:
        load_distributed(
            state, storage_reader=SafeReader(folder), planner=SafeLoadPlanner(), process_group=group.process_group
        )
    except CheckpointException as error:
        raise CheckpointError(f"{folder} cannot be loaded: {_reasons(error)}") from error
    ranks = range(manifest.world_size)
    states = _on_all(group, f"cannot read {folder}", lambda: [read_rank_state(folder, r) for r in ranks])
    return Loaded(manifest=manifest, rank_states=states[group.index])


def _make_folder(folder: Path) -> None:
    if (folder / MANIFEST).exists():
        raise CheckpointError(f"{folder} holds a checkpoint already; expected a new folder")
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _write_tensors(folder: Path, state: dict[str, Any], group: Group) -> None:
    writer = FileSystemWriter(folder, single_file_per_rank=True, sync_files=True, overwrite=True)
    try:
        save_distributed(state, storage_writer=writer, process_group=group.process_group)
    except CheckpointException as error:
        raise CheckpointError(f"cannot write {folder}: {_reasons(error)}") from error


def _write_own(folder: Path, per_rank: RankState, rank: int) -> list[StoredFile]:
    """Writes this rank's own state and describes every file that this rank wrote."""
    write_rank_state(folder, per_rank, rank)
    names = [rank_file(rank), *(p.name for p in folder.glob(f"__{rank}_*.distcp"))]
    if rank == 0:
        names.append(".metadata")
    sync_folder(folder)
    return [describe_file(folder, name) for name in names]


def rank_file(rank: int) -> str:
    return f"rank-{rank:05d}.npz"


def write_rank_state(folder: Path, state: RankState, rank: int) -> None:
    """Arrays and tensors as they are, everything else as JSON, in one NumPy archive without pickles."""
    arrays, plain = {}, {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            arrays[name] = value.detach().cpu().numpy()
        elif isinstance(value, np.ndarray):
            arrays[name] = value
        else:
            plain[name] = value
    text = np.frombuffer(json.dumps(plain).encode(), dtype=np.uint8)
    with (folder / rank_file(rank)).open("wb") as file:
        packed = io.BytesIO()
        np.savez(packed, allow_pickle=False, json=text, **{f"array.{name}": value for name, value in arrays.items()})
        file.write(packed.getvalue())
        file.flush()
        os.fsync(file.fileno())


def read_rank_state(folder: Path, rank: int) -> dict[str, Any]:
    """What rank `rank` stored; tensors come back as arrays. Raises CheckpointError when it cannot be read."""
    path = folder / rank_file(rank)
    try:
        with np.load(path, allow_pickle=False) as stored:
            state = json.loads(stored["json"].tobytes())
            state |= {name.removeprefix("array."): stored[name] for name in stored.files if name != "json"}
            return state
    except (OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); resume from another checkpoint") from error


def _on_main(group: Group, what: str, action: Callable[[], None]) -> None:
    """Rank 0 acts; if it fails, all ranks raise."""
    _on_all(group, what, action if group.is_main else lambda: None)


def _on_all(group: Group, what: str, action: Callable[[], T]) -> list[T]:
    """Every rank acts and receives all results; if one fails, all ranks raise the first failure."""
    try:
        outcome: tuple[str | None, Any] = (None, action())
    except CheckpointError as error:
        outcome = (str(error), None)
    except OSError as error:
        outcome = (f"{what}: {explain_os_error(error)}", None)
    outcomes = group.all_gather_object(outcome)
    for failure, _ in outcomes:
        if failure is not None:
            raise CheckpointError(failure)
    return [result for _, result in outcomes]


def explain_os_error(error: OSError) -> str:
    """One sentence with a remedy for what usually goes wrong when writing."""
    remedies = {
        errno.ENOSPC: "free space or point --run-dir at another disk; earlier checkpoints are untouched",
        errno.EDQUOT: "free some of your quota or point --run-dir elsewhere; earlier checkpoints are untouched",
        errno.EACCES: "make the folder writable for this user, or choose another --run-dir",
        errno.EPERM: "make the folder writable for this user, or choose another --run-dir",
        errno.EROFS: "the file system is read-only; choose another --run-dir",
        errno.ENOTDIR: "a part of the path is a file; choose another --run-dir",
    }
    remedy = remedies.get(error.errno or 0)
    return f"{error}" + (f"; {remedy}" if remedy else "")


def _reasons(error: CheckpointException) -> str:
    """Each rank's failure once; ranks usually fail alike."""
    texts: dict[str, None] = {}
    for failure, _ in error.failures.values():
        texts[explain_os_error(failure) if isinstance(failure, OSError) else str(failure)] = None
    return "; ".join(texts)
