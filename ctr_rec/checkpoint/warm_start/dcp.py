"""Distributed checkpoints (DCP) of ours or of any TorchRec job as a source."""

from __future__ import annotations

from pathlib import Path

from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from ctr_rec.checkpoint.manifest import MANIFEST, Manifest, check_file, read_manifest
from ctr_rec.checkpoint.safe_reader import read_metadata
from ctr_rec.checkpoint.stored_tensor import StoredTensor, UnusualStorageError, locate
from ctr_rec.checkpoint.tensors import whole_tensor
from ctr_rec.checkpoint.warm_start.rows import Piece
from ctr_rec.checkpoint.warm_start.source import Source, from_tensors
from ctr_rec.errors import CheckpointError
from ctr_rec.sharding.group import Group


def open_checkpoint(folder: Path, group: Group, check: bool) -> Source:
    """Opens a checkpoint; ranks share the checksums, where it has a manifest of ours and `check` asks for them.

    Entries that are no tensors are listed and never read.

    Raises:
        CheckpointError: damaged, not whole, or naming code.
    """
    manifest = read_manifest(folder) if (folder / MANIFEST).is_file() else None
    metadata = read_metadata(folder)
    if manifest is not None and check:
        _check(folder, manifest, group)
    tensors, unread = {}, []
    for name, entry in metadata.state_dict_metadata.items():
        if isinstance(entry, TensorStorageMetadata):
            tensors[name] = (tuple(entry.size), _pieces(folder, metadata, name, entry))
        else:
            unread.append(name)
    found = from_tensors(str(folder), "checkpoint", tensors, manifest)
    return Source(found.path, found.kind, found.tables, found.dense, manifest, (*found.unread, *unread))


def _check(folder: Path, manifest: Manifest, group: Group) -> None:
    for file in manifest.files[group.index :: group.size]:
        check_file(folder, file)


def _pieces(folder: Path, metadata: Metadata, name: str, entry: TensorStorageMetadata) -> list[Piece]:
    pieces = []
    for chunk in whole_tensor(folder, metadata, name, entry).chunks:
        if 0 in chunk.sizes:
            continue
        assert isinstance(chunk.path, Path), "a source lies on a mounted file system"
        stored = _locate(chunk.path, chunk.start, chunk.length, name)
        if stored.shape != chunk.sizes:
            raise CheckpointError(
                f"{stored.path}: {name} at {chunk.offsets} has shape {stored.shape}, the index says {chunk.sizes}; "
                "copy the checkpoint again"
            )
        row, column = (*chunk.offsets, 0, 0)[:2]
        pieces.append(Piece(row, column, stored))
    return pieces


def _locate(path: Path, offset: int, length: int, name: str) -> StoredTensor:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: it holds a part of {name}; copy the checkpoint again")
    size = path.stat().st_size
    if size < offset + length:
        raise CheckpointError(
            f"{path} is damaged: {name} reaches to byte {offset + length}, the file has {size}; copy the checkpoint "
            "again"
        )
    try:
        return locate(path, offset, length)
    except UnusualStorageError as error:
        raise CheckpointError(
            f"{path}: {name} is not stored as a plain tensor ({error}): refused, nothing was run; save the source "
            "again with torch.distributed.checkpoint"
        ) from error
