"""Reads what was exported, by the formats' own descriptions."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    found, end = {}, 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, stop = entry["data_offsets"]
        assert start == end, "without holes"
        end = stop
        found[name] = np.frombuffer(body[start:stop], DTYPES[entry["dtype"]]).reshape(entry["shape"])
    assert end == len(body)
    return found


def vectors(column: pa.ChunkedArray) -> np.ndarray:
    """[N] or [N, D] of a column of numbers or of fixed-size lists."""
    if not pa.types.is_fixed_size_list(column.type):
        return column.to_numpy()
    return np.concatenate([c.flatten().to_numpy() for c in column.chunks]).reshape(-1, column.type.list_size)
