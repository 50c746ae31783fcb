"""Saving and loading: data by all ranks, then the manifest by one. No manifest, no checkpoint.

A save never touches what an earlier save wrote, so whatever cuts it short (a kill, a full disk), the checkpoint before
it stays whole. A load works on any number of ranks and under any placement of the tables.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
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
from ctr_rec.checkpoint.told import explain_os_error, told
from ctr_rec.checkpoint.writer import make_writer
from ctr_rec.errors import CheckpointError
from ctr_rec.files import AnyPath, file_size, remove_tree, sync_folder, write_durably
from ctr_rec.sharding.agreement import on_each, on_main
from ctr_rec.sharding.group import Group

RankState = Mapping[str, Any]


@dataclass(frozen=True)
class Loaded:
    """manifest: of the checkpoint. rank_states: what each rank that saved it passed as `per_rank`, in rank order."""

    manifest: Manifest
    rank_states: list[dict[str, Any]]

    def rank_state(self, group: Group) -> dict[str, Any] | None:
        """This rank's own state, or None when the checkpoint comes from another number of ranks."""
        return self.rank_states[group.index] if self.manifest.world_size == group.size else None


def save(folder: AnyPath, state: dict[str, Any], manifest: Manifest, per_rank: RankState, group: Group) -> Manifest:
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
    on_main(group, told(f"cannot make {folder}", lambda: _make_folder(folder)))
    try:
        written = _write_tensors(folder, state, group)
        wrote = told(f"cannot write {folder}", lambda: _write_own(folder, per_rank, group.index, written))
        own = group.all_gather_object(on_each(group, wrote))
        files = sorted((f for part in own for f in part), key=lambda f: f.name)
        complete = manifest.model_copy(update={"files": tuple(files), "versions": versions(), "world_size": group.size})
        on_main(group, told(f"cannot write {folder / MANIFEST}", lambda: write_manifest(folder, complete)))
    except CheckpointError:
        # A full disk stays full while half a checkpoint lies on it.
        group.barrier()
        if group.is_main:
            _remove_what_was_written(folder)
        raise
    return complete


def load(
    folder: AnyPath, state: dict[str, Any], group: Group, check: bool = True, planner: SafeLoadPlanner | None = None
) -> Loaded:
    """Reads a checkpoint into the live tensors of `state`; all ranks call it, on any number of ranks.

    Args:
        state: as `training_state` returns it; may hold less than the checkpoint, but nothing that is not in it.
        check: compare every file with the manifest's size and CRC-32 first.
        planner: of a load into another shape; without one, sizes must be the same.

    Raises:
        CheckpointError: on all ranks: no manifest, damaged or missing files, a tensor that is absent or of another
            size, or content that would have to run code to be read.
    """
    manifest = on_each(group, told(f"cannot read {folder}", lambda: read_manifest(folder)))
    if check:
        share = manifest.files[group.index :: group.size]
        on_each(group, told(f"cannot read {folder}", lambda: [check_file(folder, f) for f in share]))
    try:
        load_distributed(
            state,
            storage_reader=SafeReader(folder),
            planner=planner or SafeLoadPlanner(),
            process_group=group.process_group,
        )
    except CheckpointException as error:
        raise CheckpointError(f"{folder} cannot be loaded: {_reasons(error)}") from error
    ranks = range(manifest.world_size)
    states = on_each(group, told(f"cannot read {folder}", lambda: [read_rank_state(folder, r) for r in ranks]))
    return Loaded(manifest=manifest, rank_states=states)


def _make_folder(folder: AnyPath) -> None:
    if (folder / MANIFEST).exists():
        raise CheckpointError(f"{folder} holds a checkpoint already; expected a new folder")
    if folder.exists():
        remove_tree(folder)
    folder.mkdir(parents=True)


def _remove_what_was_written(folder: AnyPath) -> None:
    """Best effort: the failure of the save is what is told, and the next cleaning takes what stays."""
    with contextlib.suppress(Exception):
        remove_tree(folder)


def _write_tensors(folder: AnyPath, state: dict[str, Any], group: Group) -> dict[str, StoredFile]:
    """Returns the files that this rank wrote, by name."""
    writer, written = make_writer(folder)
    try:
        save_distributed(state, storage_writer=writer, process_group=group.process_group)
    except CheckpointException as error:
        raise CheckpointError(f"cannot write {folder}: {_reasons(error)}") from error
    return written


def _write_own(folder: AnyPath, per_rank: RankState, rank: int, written: Mapping[str, StoredFile]) -> list[StoredFile]:
    """Writes this rank's own state; returns every file that this rank wrote, after a look at its size."""
    write_rank_state(folder, per_rank, rank)
    sync_folder(folder)
    for file in written.values():
        size = file_size(folder / file.name)
        if size != file.bytes:
            raise CheckpointError(f"{folder / file.name} was written with {file.bytes} bytes and has {size}")
    return [*written.values(), describe_file(folder, rank_file(rank))]


def rank_file(rank: int) -> str:
    return f"rank-{rank:05d}.npz"


def write_rank_state(folder: AnyPath, state: RankState, rank: int) -> None:
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
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, json=text, **{f"array.{name}": value for name, value in arrays.items()})
    write_durably(folder / rank_file(rank), packed.getvalue())


def read_rank_state(folder: AnyPath, rank: int) -> dict[str, Any]:
    """What rank `rank` stored; tensors come back as arrays. Raises CheckpointError when it cannot be read."""
    path = folder / rank_file(rank)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            state = json.loads(stored["json"].tobytes())
            state |= {name.removeprefix("array."): stored[name] for name in stored.files if name != "json"}
            return state
    except (OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); resume from another checkpoint") from error


def _reasons(error: CheckpointException) -> str:
    """Each rank's failure once; ranks usually fail alike."""
    texts: dict[str, None] = {}
    for failure, _ in error.failures.values():
        texts[explain_os_error(failure) if isinstance(failure, OSError) else str(failure)] = None
    return "; ".join(texts)
