from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch

from ctr_rec.checkpoint.warm_start.safetensors import open_safetensors, read_header
from ctr_rec.errors import CheckpointError
from tests.checkpoint.warm_start.cases import write_safetensors


def test_every_dtype_is_where_the_header_says(tmp_path: Path) -> None:
    tensors = {
        "a.embeddings.t.weight": torch.randn(7, 3),
        "half": torch.randn(2, 2).half(),
        "brain": torch.randn(5).bfloat16(),
        "double": torch.randn(()).double(),
        "whole": torch.arange(4),
    }
    path = write_safetensors(tmp_path / "m.safetensors", tensors)
    for name, stored in read_header(path).items():
        value = torch.empty(stored.shape, dtype=stored.dtype)
        stored.read_into(value, [0] * value.dim())
        assert torch.equal(value, tensors.pop(name))
    assert not tensors


def test_a_folder_of_files_is_one_source(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "m-1.safetensors", {"a.embeddings.t.weight": torch.ones(3, 2)})
    write_safetensors(tmp_path / "m-2.safetensors", {"b.weight": torch.ones(3)})
    found = open_safetensors(tmp_path)
    assert found.find("t") is not None
    assert list(found.dense) == ["b.weight"]
    write_safetensors(tmp_path / "m-3.safetensors", {"b.weight": torch.ones(3)})
    with pytest.raises(CheckpointError, match=r"m-3.safetensors and another file of .* both hold b.weight"):
        open_safetensors(tmp_path)


def test_truncated_files(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "m.safetensors", {"w": torch.ones(100)})
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with pytest.raises(CheckpointError, match=rf"damaged: expected {len(content)} bytes, got {len(content) - 10}"):
        read_header(path)
    path.write_bytes(content[:40])
    with pytest.raises(CheckpointError, match=r"damaged: expected a header of \d+ bytes, got 32; copy"):
        read_header(path)
    path.write_bytes(b"PK" * 4 + content)
    with pytest.raises(CheckpointError, match=r"no safetensors file: its header would have \d+ bytes"):
        read_header(path)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"m.safetensors does not exist"):
        read_header(path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [2]},
        "words",
    ],
)
def test_headers_that_contradict_themselves(tmp_path: Path, entry: object) -> None:
    text = json.dumps({"w": entry}).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"12345678")
    with pytest.raises(CheckpointError, match=r"the header of safetensors cannot be read"):
        read_header(path)
