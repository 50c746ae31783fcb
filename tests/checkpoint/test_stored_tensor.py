from __future__ import annotations

import io
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ctr_rec.checkpoint import stored_tensor
from ctr_rec.checkpoint.stored_tensor import StoredTensor, UnusualStorageError, locate


def put(folder: Path, value: Any, before: int = 37) -> tuple[Path, int, int]:
    """Writes as a distributed checkpoint does: several saved objects in one file. Returns where the object lies."""
    content = io.BytesIO()
    torch.save(value, content)
    path = folder / "data"
    path.write_bytes(b"x" * before + content.getvalue() + b"after")
    return path, before, len(content.getvalue())


def tensor(dtype: torch.dtype, *shape: int) -> Tensor:
    return (torch.rand(shape) * 200).to(dtype)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
)
def test_any_block_of_any_dtype(tmp_path: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_tensor, "BUFFER_BYTES", 200)
    whole = tensor(dtype, 23, 7)
    found = locate(*put(tmp_path, whole))
    assert (found.dtype, found.shape) == (dtype, (23, 7))
    for first, rows, column, columns in [(0, 23, 0, 7), (3, 11, 0, 7), (22, 1, 6, 1), (5, 9, 2, 4), (4, 0, 0, 7)]:
        target = torch.zeros(rows, columns, dtype=dtype)
        found.read_into(target, (first, column))
        assert torch.equal(target, whole[first : first + rows, column : column + columns])


@pytest.mark.parametrize("shape", [(), (5,), (1, 1), (3, 4, 5), (0, 4)])
def test_other_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    whole = tensor(torch.float32, *shape)
    target = torch.full(shape, -1.0)
    locate(*put(tmp_path, whole)).read_into(target, (0,) * len(shape))
    assert torch.equal(target, whole)


def test_a_target_that_is_itself_a_slice(tmp_path: Path) -> None:
    whole = tensor(torch.float32, 6, 4)
    table = torch.zeros(10, 8)
    locate(*put(tmp_path, whole)).read_into(table[2:8, 4:], (0, 0))
    assert torch.equal(table[2:8, 4:], whole)
    table[2:8, 4:] = 0
    assert not table.any(), "nothing beside the slice is touched"


def test_memory_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffers: list[int] = []
    make = torch.empty

    def counted(size: int, dtype: torch.dtype) -> Tensor:
        buffers.append(size)
        return make(size, dtype=dtype)

    path, offset, length = put(tmp_path, tensor(torch.float32, 100_000, 8))
    target = torch.zeros(1000, 8)
    monkeypatch.setattr(stored_tensor, "BUFFER_BYTES", 4096)
    monkeypatch.setattr(stored_tensor.torch, "empty", counted)
    tracemalloc.start()
    locate(path, offset, length).read_into(target, (50_000, 0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert max(buffers) <= 4096
    assert sum(buffers) == 1000 * 8 * 4
    assert peak < 300_000


def test_blocks_that_reach_beyond_and_other_dtypes(tmp_path: Path) -> None:
    found = locate(*put(tmp_path, tensor(torch.float32, 6, 4)))
    with pytest.raises(ValueError, match=r"expected a block inside \(6, 4\), got \(3, 4\) at \(4, 0\)"):
        found.read_into(torch.zeros(3, 4), (4, 0))
    with pytest.raises(ValueError, match="expected a block inside"):
        found.read_into(torch.zeros(3), (0,))
    with pytest.raises(ValueError, match=r"expected a target of torch.float32, got torch.float64"):
        found.read_into(torch.zeros(3, 4, dtype=torch.float64), (0, 0))


def test_a_file_that_ends_too_soon(tmp_path: Path) -> None:
    path, offset, length = put(tmp_path, tensor(torch.float32, 600, 4))
    found = locate(path, offset, length)
    path.write_bytes(path.read_bytes()[: found.start + 1000])
    with pytest.raises(EOFError, match="ends 8600 bytes before its tensor does"):
        found.read_into(torch.zeros(600, 4), (0, 0))


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.target}",))


@pytest.mark.parametrize("case", ["transposed", "several", "payload", "text", "no archive"])
def test_what_is_not_one_plain_tensor_is_left_to_the_caller(tmp_path: Path, case: str) -> None:
    values = {
        "transposed": torch.zeros(3, 4).T,
        "several": [torch.zeros(2), torch.zeros(3)],
        "payload": [torch.zeros(2), Payload(tmp_path / "touched")],
        "text": "words",
        "no archive": torch.zeros(2),
    }
    path, offset, length = put(tmp_path, values[case])
    with pytest.raises(UnusualStorageError):
        locate(path, offset, length - 30 if case == "no archive" else length)
    assert not (tmp_path / "touched").exists()


def test_a_view_of_a_larger_storage(tmp_path: Path) -> None:
    whole = tensor(torch.float32, 10, 4)
    found = locate(*put(tmp_path, whole[3:7]))
    assert isinstance(found, StoredTensor)
    target = torch.zeros(4, 4)
    found.read_into(target, (0, 0))
    assert torch.equal(target, whole[3:7])
