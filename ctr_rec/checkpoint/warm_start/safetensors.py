"""safetensors files as a source: eight bytes of length, a JSON header, raw numbers.

The format is read here, since rows are read by their place in the file and the header is all that it takes (Hugging
Face, https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
import math
import struct
import sys
from pathlib import Path
from typing import Any

import torch

from ctr_rec.checkpoint.stored_tensor import StoredTensor
from ctr_rec.checkpoint.warm_start.rows import Piece
from ctr_rec.checkpoint.warm_start.source import Source, from_tensors
from ctr_rec.errors import CheckpointError

ENDING = ".safetensors"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
# The format's own limit on its header.
LONGEST_HEADER = 100_000_000


def open_safetensors(path: Path) -> Source:
    """Opens a file, or all files of a folder.

    Raises:
        CheckpointError: a file is cut short or no safetensors, or two files have a tensor of one name.
    """
    files = sorted(path.glob(f"*{ENDING}")) if path.is_dir() else [path]
    tensors: dict[str, tuple[tuple[int, ...], list[Piece]]] = {}
    for file in files:
        for name, stored in read_header(file).items():
            if name in tensors:
                raise CheckpointError(f"{file} and another file of {path} both hold {name}; remove one")
            tensors[name] = (stored.shape, [Piece(0, 0, stored)])
    return from_tensors(str(path), "safetensors", tensors)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Where each tensor of a file lies; types that are neither floats nor plain integers are left out."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; expected a {ENDING} file")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else LONGEST_HEADER + 1
        if length > LONGEST_HEADER:
            raise CheckpointError(f"{path} is no safetensors file: its header would have {length} bytes")
        text = file.read(length)
    if len(text) < length:
        raise CheckpointError(f"{path} is damaged: expected a header of {length} bytes, got {len(text)}; copy it again")
    try:
        header = json.loads(text)
        entries = {name: _entry(entry) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: the header of safetensors cannot be read ({error}); copy it again") from error
    expected = 8 + length + max((end for _, _, (_, end) in entries.values()), default=0)
    if size != expected:
        raise CheckpointError(f"{path} is damaged: expected {expected} bytes, got {size}; copy it again")
    assert sys.byteorder == "little", "safetensors are little-endian"
    return {
        name: StoredTensor(path=path, start=8 + length + start, dtype=_DTYPES[dtype], shape=shape)
        for name, (dtype, shape, (start, _)) in entries.items()
        if dtype in _DTYPES
    }


def _entry(entry: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    dtype, shape, (start, end) = str(entry["dtype"]), tuple(int(n) for n in entry["shape"]), entry["data_offsets"]
    if not 0 <= start <= end or any(n < 0 for n in shape):
        raise ValueError(f"offsets {start} to {end}, shape {shape}")
    if dtype in _DTYPES and end - start != math.prod(shape) * _DTYPES[dtype].itemsize:
        raise ValueError(f"{end - start} bytes for shape {shape} of {dtype}")
    return dtype, shape, (int(start), int(end))
