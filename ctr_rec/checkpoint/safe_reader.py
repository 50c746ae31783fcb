"""Reads PyTorch's distributed checkpoints without running anything that is stored in them.

The stock reader unpickles `.metadata`, and the stock planner every entry that is no tensor: either can run code. Here
`.metadata` may name a dozen harmless classes, entries that are no tensors go through `torch.load(weights_only=True)`,
and file names may not leave the checkpoint's folder.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.futures import Future

from ctr_rec.checkpoint.stored_tensor import UnusualStorageError, locate
from ctr_rec.errors import CheckpointError
from ctr_rec.files import AnyPath

_METADATA = "torch.distributed.checkpoint.metadata"
_ALLOWED = {
    (_METADATA, "Metadata"),
    (_METADATA, "MetadataIndex"),
    (_METADATA, "TensorStorageMetadata"),
    (_METADATA, "BytesStorageMetadata"),
    (_METADATA, "ChunkStorageMetadata"),
    (_METADATA, "TensorProperties"),
    (_METADATA, "StorageMeta"),
    (_METADATA, "_MEM_FORMAT_ENCODING"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.distributed._shard.sharded_tensor.metadata", "TensorProperties"),
    ("torch.distributed._shard.sharded_tensor.metadata", "MEM_FORMAT_ENCODING"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),
}


class MetadataUnpickler(pickle.Unpickler):
    """Finds only the classes that a checkpoint's metadata is made of."""

    def __init__(self, file: io.BufferedIOBase, path: AnyPath) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) == ("builtins", "getattr"):
            return self._member
        is_dtype = module_name == "torch" and isinstance(getattr(torch, global_name, None), torch.dtype)
        if is_dtype or (module_name, global_name) in _ALLOWED:
            return super().find_class(module_name, global_name)
        raise CheckpointError(
            f"{self._path} names {module_name}.{global_name}, which no checkpoint needs: refused, nothing was run; "
            "do not use this file unless you trust and convert it yourself"
        )

    def _member(self, owner: object, name: str) -> object:
        """What Python 3.11.0 to 3.11.3 pickle for an enumeration's member, getattr(class, name), and nothing else."""
        if isinstance(owner, type) and issubclass(owner, Enum) and name in owner.__members__:
            return owner[name]
        raise CheckpointError(
            f"{self._path} asks for {name!r} of {owner!r}, which no checkpoint needs: refused, nothing was run; "
            "do not use this file unless you trust and convert it yourself"
        )


def read_metadata(folder: AnyPath) -> Metadata:
    """The index of a distributed checkpoint.

    Raises:
        CheckpointError: absent, not a pickle of a `Metadata`, or naming anything outside the list above.
    """
    path = folder / ".metadata"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: {folder} is not a whole distributed checkpoint; use another one")
    try:
        with path.open("rb") as file:
            found = MetadataUnpickler(file, path).load()
    except CheckpointError:
        raise
    # A damaged pickle can raise nearly anything.
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read ({type(error).__name__}: {error}); copy it again") from error
    if not isinstance(found, Metadata) or not isinstance(found.storage_data, dict):
        raise CheckpointError(f"{path}: expected the metadata of a distributed checkpoint, got {type(found).__name__}")
    for info in found.storage_data.values():
        _check_inside(path, info)
    return found


def _check_inside(path: AnyPath, info: Any) -> None:
    name = getattr(info, "relative_path", None)
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
        raise CheckpointError(
            f"{path} points at {name!r}: expected a file name inside the checkpoint's folder; refused"
        )
    if getattr(info, "transform_descriptors", None):
        raise CheckpointError(f"{path}: {name} is stored with {info.transform_descriptors}; expected plain tensors")


class SafeReader(FileSystemReader):
    """A storage reader for `torch.distributed.checkpoint.load`. Only the rows asked for pass through memory."""

    def __init__(self, folder: AnyPath) -> None:
        # Only its bookkeeping is used; every byte is read here.
        super().__init__(str(folder))
        self._folder = folder

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        metadata = read_metadata(self._folder)
        if getattr(metadata, "storage_meta", None) is None:
            metadata.storage_meta = StorageMeta()
        return metadata

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        for item in plan.items:
            info = self.storage_data[item.storage_index]
            path = self._folder / info.relative_path
            if item.type == LoadItemType.BYTE_IO:
                planner.load_bytes(item, io.BytesIO(_read(path, info.offset, info.length)))
                continue
            target = planner.resolve_tensor(item).detach()
            try:
                read_tensor(path, info.offset, info.length, target, item.storage_offsets)
            except (ValueError, EOFError) as error:
                raise CheckpointError(f"{item.dest_index.fqn} in {path.name}: {error}") from error
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done


def _read(path: AnyPath, offset: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def read_tensor(path: AnyPath, offset: int, length: int, target: Tensor, offsets: Sequence[int]) -> None:
    """Fills `target` with the block at `offsets` of the tensor stored in bytes [offset, offset + length) of a file.

    Raises:
        ValueError: the block reaches beyond the stored tensor, or its dtype is another.
        EOFError: the file ends before the tensor does.
    """
    try:
        locate(path, offset, length).read_into(target, offsets)
    except UnusualStorageError:
        whole = torch.load(io.BytesIO(_read(path, offset, length)), map_location="cpu", weights_only=True)
        target.copy_(narrow_tensor_by_index(whole, offsets, target.shape))


class SafeLoadPlanner(DefaultLoadPlanner):
    """The default planner, for entries that are no tensors too. Table-wise tables need sharded tensors kept whole."""

    def __init__(self, allow_partial_load: bool = False) -> None:
        super().__init__(flatten_sharded_tensors=False, allow_partial_load=allow_partial_load)

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        name = read_item.dest_index.fqn
        try:
            checked = torch.load(value, weights_only=True)
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"entry {name!r} of the checkpoint needs code to be run to be read: it was refused ({error})"
            ) from error
        again = io.BytesIO()
        torch.save(checked, again)
        again.seek(0)
        super().load_bytes(read_item, again)
