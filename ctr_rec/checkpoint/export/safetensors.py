"""Writes a safetensors file in slices: eight bytes of length, a JSON header, raw numbers.

The format is written here because the `safetensors` package takes every tensor whole and in memory at once, and a table
may be larger than that. Source: Hugging Face, https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ctr_rec.checkpoint.tensors import SLICE_BYTES, WholeTensor
from ctr_rec.errors import CheckpointError

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
# The header is padded with spaces, so that numbers begin where a memory map can read them.
ALIGNMENT = 8


def write_safetensors(path: Path, tensors: Mapping[str, WholeTensor]) -> None:
    """Writes named tensors in their order.

    Raises CheckpointError for a dtype that the format lacks, and where the checkpoint is damaged.
    """
    assert sys.byteorder == "little", "safetensors are little-endian"
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise CheckpointError(f"{name} is {tensor.dtype}, which safetensors do not hold; convert it in its own job")
        start, end = end, end + tensor.bytes
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for tensor in tensors.values():
            row_bytes = max(1, tensor.bytes // max(1, tensor.shape[0])) if tensor.shape else 1
            parts = tensor.slices(max(1, SLICE_BYTES // row_bytes)) if tensor.shape else [(0, tensor.whole())]
            for _, part in parts:
                file.write(_bytes_of(part))


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
