from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from ctr_rec.checkpoint.stored_tensor import StoredTensor
from ctr_rec.checkpoint.warm_start import rows
from ctr_rec.checkpoint.warm_start.rows import Piece, StoredRows, spans, take
from ctr_rec.errors import CheckpointError


def stored(path: Path, matrix: torch.Tensor) -> StoredTensor:
    raw = matrix.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    path.write_bytes(b"skip" * 3 + raw)
    return StoredTensor(path, 12, matrix.dtype, tuple(matrix.shape))


def table(folder: Path, matrix: torch.Tensor, row_cuts: list[int], column_cuts: list[int]) -> StoredRows:
    pieces = []
    for low, high in pairwise(row_cuts):
        for left, right in pairwise(column_cuts):
            part = stored(folder / f"{low}-{left}.bin", matrix[low:high, left:right])
            pieces.append(Piece(low, left, part))
    return StoredRows("t", tuple(matrix.shape), pieces, str(folder))


def read(reader: StoredRows, wanted: np.ndarray) -> torch.Tensor:
    out = torch.full((len(wanted), reader.width), float("nan"), dtype=reader.dtype)
    for start, block in reader.blocks(wanted):
        assert block.shape[0] * reader.width * reader.dtype.itemsize <= rows.BLOCK_BYTES
        out[start : start + block.shape[0]] = block
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("cuts", [([0, 100], [0, 6]), ([0, 30, 31, 100], [0, 6]), ([0, 50, 100], [0, 2, 6])])
def test_rows_of_pieces_in_every_order_of_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, cuts: tuple[list[int], list[int]]
) -> None:
    # Blocks of a few rows and gaps of one, so that all seams are met.
    monkeypatch.setattr(rows, "BLOCK_BYTES", 7 * 6 * dtype.itemsize)
    monkeypatch.setattr(rows, "GAP_BYTES", 2 * 6 * dtype.itemsize)
    matrix = torch.randn(100, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    reader = table(tmp_path, matrix, *cuts)
    random = np.random.default_rng(1)
    for wanted in (np.arange(100), np.sort(random.integers(0, 100, 60)), np.array([99]), np.array([0, 0, 1, 3])):
        assert torch.equal(read(reader, wanted), matrix[wanted])
        memory = torch.zeros(len(wanted), 6, dtype=dtype)
        for start, block in reader.blocks(wanted, memory):
            memory[start : start + block.shape[0]] = block.clone()
        assert torch.equal(memory, matrix[wanted])
    assert all(torch.equal(reader.row(r), matrix[r]) for r in (0, 30, 99))
    assert list(reader.blocks(np.zeros(0, np.int64))) == []
    assert reader.file_of(99).endswith(f"{cuts[0][-2]}-0.bin")


def test_a_state_of_one_number_per_row_has_width_one(tmp_path: Path) -> None:
    values = torch.arange(10.0)
    reader = StoredRows("m", (10,), [Piece(0, 0, stored(tmp_path / "m.bin", values))], "here")
    assert (reader.flat, reader.width) == (True, 1)
    assert read(reader, np.array([3, 8])).tolist() == [[3.0], [8.0]]
    assert reader.row(4).tolist() == [4.0]


def test_near_rows_come_in_one_read_and_far_ones_in_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "BLOCK_BYTES", 100)
    monkeypatch.setattr(rows, "GAP_BYTES", 30)
    wanted = np.array([0, 2, 4, 9, 30, 31])
    assert list(spans(wanted, 0, 6, 10)) == [(0, 3), (3, 4), (4, 6)]
    assert list(spans(np.arange(25), 5, 25, 10)) == [(5, 15), (15, 25)]


def test_pieces_that_do_not_cover_the_table(tmp_path: Path) -> None:
    matrix = torch.zeros(10, 2)
    part = Piece(0, 0, stored(tmp_path / "a.bin", matrix[:7]))
    with pytest.raises(CheckpointError, match=r"here: t has 10 x 2 numbers in one dtype, its pieces have 14; copy"):
        StoredRows("t", (10, 2), [part], "here")


def test_a_file_that_ends_too_early(tmp_path: Path) -> None:
    reader = table(tmp_path, torch.ones(10, 2), [0, 10], [0, 2])
    path = tmp_path / "0-0.bin"
    path.write_bytes(path.read_bytes()[:-8])
    assert torch.equal(read(reader, np.array([0, 8])), torch.ones(2, 2))
    with pytest.raises(CheckpointError, match=r"0-0.bin is damaged: it ends 8 bytes before row 9 of its table does"):
        read(reader, np.array([9]))


def test_taken_rows_are_rows() -> None:
    matrix = torch.randn(5, 3)
    assert torch.equal(take(matrix, np.array([4, 0, 0])), matrix[[4, 0, 0]])
    assert torch.equal(take(matrix.bfloat16(), np.array([4, 0])), matrix[[4, 0]].bfloat16())
