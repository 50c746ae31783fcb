"""Hash of a log's content: of the values that are stored, not of the bytes that Parquet makes of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctr_rec.schema.log import LogSchema, Split
from ctr_rec.schema.manifest import SourceFile


class Fingerprint:
    """Takes every table in a stated order (events and users by row group, items, vocabularies by name).

    grown_from: fingerprints of the logs that this one grew from: it shares their numbers' scales, which no table shows.
    """

    def __init__(self, schema: LogSchema, split: Split, grown_from: tuple[str, ...] = ()) -> None:
        self._hash = hashlib.sha256(f"{schema.model_dump_json()}\n{split.model_dump_json()}\n".encode())
        for name in grown_from:
            self._hash.update(f"grown from {name}\n".encode())

    def add(self, name: str, table: pa.Table) -> None:
        self._hash.update(f"{name} {table.num_rows}\n".encode())
        for column in table.column_names:
            self._hash.update(f"{column}\n".encode())
            for chunk in _one(table.column(column)):
                _digest(self._hash, chunk)

    def value(self) -> str:
        return self._hash.hexdigest()


def _one(column: pa.ChunkedArray) -> list[pa.Array]:
    """At most one chunk, so that the hash does not depend on how the values are chunked."""
    if column.num_chunks <= 1:
        return list(column.chunks)
    return [pa.concat_arrays(column.chunks)]


def _digest(h: Any, array: pa.Array) -> None:
    assert array.null_count == 0, "a stored log has no nulls"
    if pa.types.is_list(array.type):
        h.update(pc.list_value_length(array).to_numpy(zero_copy_only=False).astype("<i4").tobytes())  # pyright: ignore[reportAttributeAccessIssue]
        _digest(h, array.flatten())
    elif pa.types.is_fixed_size_list(array.type):
        _digest(h, array.flatten())
    elif pa.types.is_string(array.type):
        h.update(pc.binary_length(array).to_numpy(zero_copy_only=False).astype("<i4").tobytes())  # pyright: ignore[reportAttributeAccessIssue]
        h.update(_text_bytes(array))
    elif pa.types.is_boolean(array.type):
        h.update(array.cast(pa.int8()).to_numpy(zero_copy_only=False).tobytes())
    else:
        h.update(np.ascontiguousarray(array.to_numpy(zero_copy_only=False)).tobytes())


def _text_bytes(array: pa.Array) -> bytes:
    _, offsets, data = array.buffers()
    if len(array) == 0 or data is None:
        return b""
    ends = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
    return memoryview(data)[ends[0] : ends[-1]].tobytes()


def source_file(path: Path) -> SourceFile:
    """Name, size and SHA-256 of a raw file."""
    h = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            h.update(block)
    return SourceFile(name=path.name, bytes=path.stat().st_size, sha256=h.hexdigest())
