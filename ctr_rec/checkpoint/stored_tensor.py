"""Reads slices of a tensor where it lies in a checkpoint's file, in bounded memory.

PyTorch's own reader loads a whole stored shard to take some rows of it. Here the file's index says where the tensor's
bytes begin (`torch.save` writes an uncompressed zip archive), and only the rows asked for are read, a buffer at a time.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import struct
import sys
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from ctr_rec.files import AnyPath

BUFFER_BYTES = 1 << 24
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")


class UnusualStorageError(Exception):
    """A tensor that is not stored plainly; the caller reads it whole instead."""


@dataclass(frozen=True)
class StoredTensor:
    """A contiguous tensor whose bytes begin at `start` of the file."""

    path: AnyPath
    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def read_into(self, target: Tensor, offsets: Sequence[int]) -> None:
        """Fills `target` with the block of its shape that begins at `offsets`; whole leading rows pass through memory.

        Raises:
            ValueError: the block reaches beyond the stored tensor, or its dtype is another.
            EOFError: the file ends before the tensor does.
        """
        lengths = tuple(target.shape)
        within = len(offsets) == len(lengths) == len(self.shape) and all(
            o >= 0 and o + n <= s for o, n, s in zip(offsets, lengths, self.shape, strict=True)
        )
        if not within:
            raise ValueError(f"expected a block inside {self.shape}, got {lengths} at {tuple(offsets)}")
        if target.dtype != self.dtype:
            raise ValueError(f"expected a target of {self.dtype}, got {target.dtype}")
        if target.numel() == 0:
            return
        if not lengths:
            target.copy_(self._rows(0, 1).reshape(()))
            return
        row_bytes = max(1, math.prod(self.shape[1:]) * self.dtype.itemsize)
        step = max(1, BUFFER_BYTES // row_bytes)
        for first in range(0, lengths[0], step):
            count = min(step, lengths[0] - first)
            block = self._rows(offsets[0] + first, count)
            for axis in range(1, len(lengths)):
                block = block.narrow(axis, offsets[axis], lengths[axis])
            target[first : first + count].copy_(block)

    def _rows(self, first: int, count: int) -> Tensor:
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        buffer = torch.empty(count * row_bytes, dtype=torch.uint8)
        view = buffer.numpy().data
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start + first * row_bytes)
            filled = 0
            while filled < len(view):
                got = file.readinto(view[filled:])
                if not got:
                    raise EOFError(f"{self.path} ends {len(view) - filled} bytes before its tensor does")
                filled += got
        return buffer.view(self.dtype).reshape(count, *self.shape[1:])


def locate(path: AnyPath, offset: int, length: int) -> StoredTensor:
    """Finds the tensor that `torch.save` wrote to bytes [offset, offset + length) of a file. Runs nothing of it.

    Raises:
        UnusualStorageError: it is no single contiguous tensor in this machine's byte order.
    """
    with path.open("rb") as file:
        file.seek(offset)
        try:
            archive = zipfile.ZipFile(_Window(file, offset, length))
        except zipfile.BadZipFile as error:
            raise UnusualStorageError(str(error)) from error
        with archive:
            members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
            data = members.get("data/0")
            if data is None or "data/1" in members or data.compress_type != zipfile.ZIP_STORED:
                raise UnusualStorageError("expected one uncompressed storage")
            if "byteorder" in members and archive.read(members["byteorder"]).decode() != sys.byteorder:
                raise UnusualStorageError("another byte order")
            dtype, first, shape, stride = _describe(archive.read(members["data.pkl"]))
        start = offset + data.header_offset
        file.seek(start)
        *_, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    if not _is_contiguous(shape, stride):
        raise UnusualStorageError(f"not contiguous: shape {shape}, stride {stride}")
    if (first + math.prod(shape)) * dtype.itemsize > data.file_size:
        raise UnusualStorageError("the storage is smaller than its tensor")
    start += _LOCAL_HEADER.size + name_length + extra_length + first * dtype.itemsize
    return StoredTensor(path=path, start=start, dtype=dtype, shape=shape)


def _is_contiguous(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and step != expected:
            return False
        expected *= max(size, 1)
    return True


def _describe(pickled: bytes) -> tuple[torch.dtype, int, tuple[int, ...], tuple[int, ...]]:
    """dtype, first element, shape and stride of the one tensor that a pickle describes."""
    try:
        found = _TensorUnpickler(io.BytesIO(pickled)).load()
    # Whatever is wrong with it, the caller's other way of reading it says so.
    except Exception as error:
        raise UnusualStorageError(str(error)) from error
    if not isinstance(found, _Description):
        raise UnusualStorageError(f"a {type(found).__name__}")
    return found.dtype, found.first, found.shape, found.stride


@dataclass(frozen=True)
class _Description:
    dtype: torch.dtype
    first: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuild(dtype: torch.dtype, first: int, shape: Any, stride: Any, *rest: Any) -> _Description:
    """Stands in for `torch._utils._rebuild_tensor_v2`."""
    del rest
    return _Description(dtype, int(first), tuple(int(n) for n in shape), tuple(int(n) for n in stride))


class _TensorUnpickler(pickle.Unpickler):
    """Finds our stand-in for the tensor's constructor, storage types and an empty dict; nothing else."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module_name, global_name) == ("collections", "OrderedDict"):
            return dict
        kind = getattr(torch, global_name, None) if module_name == "torch" else None
        if isinstance(kind, type) and global_name.endswith("Storage"):
            return kind
        _refuse(f"{module_name}.{global_name}")

    def persistent_load(self, pid: Any) -> torch.dtype:
        kind, storage, key, *_ = pid
        with warnings.catch_warnings():
            # A storage class says its dtype only with a deprecation notice that is none of the user's business.
            warnings.simplefilter("ignore")
            dtype = getattr(storage, "dtype", None)
        if kind != "storage" or key != "0" or not isinstance(dtype, torch.dtype):
            _refuse(f"storage {key!r}")
        return dtype


def _refuse(what: str) -> NoReturn:
    raise UnusualStorageError(f"{what} in the description of a tensor")


class _Window(io.RawIOBase):
    """A part of a file as a file of its own."""

    def __init__(self, file: io.BufferedReader, offset: int, length: int) -> None:
        self._file, self._offset, self._length, self._position = file, offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, target: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = base + target
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._length - self._position)
        self._file.seek(self._offset + self._position)
        found = self._file.read(left if size < 0 else min(size, left))
        self._position += len(found)
        return found
