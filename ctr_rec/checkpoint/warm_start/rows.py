"""Rows of a stored tensor in the order of the file: near ones in one read, nothing larger than a block in memory.

Reading a row of 256 bytes by itself costs as much as reading 32 KB, so rows that lie nearer than that come in one span
with what is between them. Legend: N rows asked for, D width.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ctr_rec.checkpoint.stored_tensor import StoredTensor
from ctr_rec.errors import CheckpointError

GAP_BYTES = 32 << 10
BLOCK_BYTES = 2 << 20
Int64 = npt.NDArray[np.int64]


class RowReader(Protocol):
    """Rows of a table or of its optimizer's state, wherever they are stored.

    width: 1 also for a state of one number per row; `flat` says which. where: file or folder, for messages.
    """

    rows: int
    width: int
    flat: bool
    dtype: torch.dtype
    where: str

    def blocks(self, rows_N: Int64, into_ND: Tensor | None = None) -> Iterator[tuple[int, Tensor]]:
        """Reads rows (ascending, repeats allowed): (position of the first in rows_N, [n, width] in the stored dtype).

        A block may be overwritten by the next. into_ND: contiguous memory for all of them in the stored dtype, which
        saves a copy; blocks may lie in it then. Raises CheckpointError when the file ends too early or cannot be read.
        """
        ...

    def file_of(self, row: int) -> str:
        """The file that holds a row."""
        ...

    def row(self, row: int) -> Tensor:
        """One row by itself, [width], by another way than `blocks`: to check with."""
        ...


@dataclass(frozen=True)
class Piece:
    """A stored block of a larger tensor: rows `row` onwards, columns `column` onwards."""

    row: int
    column: int
    stored: StoredTensor

    @property
    def height(self) -> int:
        return self.stored.shape[0]

    @property
    def width(self) -> int:
        return self.stored.shape[1] if len(self.stored.shape) == 2 else 1


class StoredRows:
    """A `RowReader` over pieces that cover a tensor, cut by rows, by columns, or both."""

    def __init__(self, name: str, shape: tuple[int, ...], pieces: Sequence[Piece], where: str) -> None:
        self.name = name
        self.rows = shape[0]
        self.flat = len(shape) == 1
        self.width = 1 if self.flat else shape[1]
        self.where = where
        self.dtype = pieces[0].stored.dtype
        self._pieces = sorted(pieces, key=lambda p: (p.row, p.column))
        covered = sum(p.height * p.width for p in pieces)
        if covered != self.rows * self.width or any(p.stored.dtype != self.dtype for p in pieces):
            raise CheckpointError(
                f"{where}: {name} has {self.rows} x {self.width} numbers in one dtype, its pieces have {covered}; copy "
                "the source again"
            )

    def file_of(self, row: int) -> str:
        return next(str(p.stored.path) for p in self._pieces if p.row <= row < p.row + p.height)

    def row(self, row: int) -> Tensor:
        out = torch.empty(self.width, dtype=self.dtype)
        for piece in self._pieces:
            if piece.row <= row < piece.row + piece.height:
                part = torch.empty((1, *piece.stored.shape[1:]), dtype=self.dtype)
                piece.stored.read_into(part, [row - piece.row, *[0] * (part.dim() - 1)])
                out[piece.column : piece.column + piece.width] = part.reshape(-1)
        return out

    def blocks(self, rows_N: Int64, into_ND: Tensor | None = None) -> Iterator[tuple[int, Tensor]]:
        for first, last in self._bands():
            low, high = np.searchsorted(rows_N, [first, last])
            if low < high:
                pieces = [p for p in self._pieces if p.row < last and p.row + p.height > first]
                yield from self._band(pieces, rows_N, int(low), int(high), into_ND)

    def _bands(self) -> Iterator[tuple[int, int]]:
        """Ranges of rows within which the same pieces lie."""
        edges = sorted({p.row for p in self._pieces} | {p.row + p.height for p in self._pieces})
        yield from pairwise(edges)

    def _band(
        self, pieces: list[Piece], rows_N: Int64, low: int, high: int, into_ND: Tensor | None
    ) -> Iterator[tuple[int, Tensor]]:
        readers = [(p, _Spans(p.stored, p.width)) for p in pieces]
        row_bytes = self.width * self.dtype.itemsize
        try:
            for start, stop in spans(rows_N, low, high, row_bytes):
                rows = rows_N[start:stop]
                if len(readers) == 1:
                    piece, reader = readers[0]
                    yield start, reader.take(rows - piece.row, None if into_ND is None else into_ND[start:stop])
                    continue
                block = torch.empty(len(rows), self.width, dtype=self.dtype)
                for piece, reader in readers:
                    block[:, piece.column : piece.column + piece.width] = reader.take(rows - piece.row)
                yield start, block
        finally:
            for _, reader in readers:
                reader.close()


def spans(rows_N: Int64, low: int, high: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Cuts rows_N[low:high] where the next row is far, or where a block is full: positions [start, stop)."""
    longest = max(1, BLOCK_BYTES // row_bytes)
    gap = max(1, GAP_BYTES // row_bytes)
    breaks = low + 1 + np.flatnonzero(np.diff(rows_N[low:high]) > gap)
    for start, stop in zip([low, *breaks.tolist()], [*breaks.tolist(), high], strict=True):
        while start < stop:
            window = rows_N[start : min(stop, start + longest)]
            end = start + int(np.searchsorted(window, rows_N[start] + longest))
            yield start, end
            start = end


def whole_rows(matrix_ND: Tensor) -> np.ndarray:
    """A contiguous matrix on the CPU as one opaque element per row, [N], of the same memory.

    NumPy moves such elements three times faster than torch's indexing moves rows (8 million rows of 256 bytes).
    """
    return matrix_ND.numpy().view(f"V{matrix_ND.shape[1] * matrix_ND.element_size()}").reshape(-1)


def take(matrix_ND: Tensor, rows_N: Int64, out_ND: Tensor | None = None) -> Tensor:
    """Some rows of a contiguous matrix on the CPU; into out_ND where that is given."""
    if out_ND is None:
        out_ND = torch.empty(len(rows_N), matrix_ND.shape[1], dtype=matrix_ND.dtype)
    if matrix_ND.dtype == torch.bfloat16 or matrix_ND.shape[1] == 0:  # NumPy has no bfloat16
        return out_ND.copy_(matrix_ND[torch.from_numpy(rows_N)])
    np.take(whole_rows(matrix_ND), rows_N, out=whole_rows(out_ND), mode="clip")
    return out_ND


class _Spans:
    """Reads spans of one stored tensor into a buffer of its own."""

    def __init__(self, stored: StoredTensor, width: int) -> None:
        self._stored, self._width = stored, width
        self._file: Any = stored.path.open("rb", buffering=0)
        if hasattr(os, "posix_fadvise"):  # rows are asked for in the file's order: read ahead further
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def close(self) -> None:
        self._file.close()

    def take(self, rows: Int64, out: Tensor | None = None) -> Tensor:
        """Rows of the piece (ascending), [n, width]: in `out`, or a view of the buffer where they lie side by side."""
        first, count = int(rows[0]), int(rows[-1] - rows[0]) + 1
        if count == len(rows) and bool((np.diff(rows) == 1).all()):
            return self._read(first, count, out)
        return take(self._read(first, count, None), rows - first, out)

    def _read(self, first: int, count: int, out: Tensor | None) -> Tensor:
        row_bytes = self._width * self._stored.dtype.itemsize
        size = count * row_bytes
        if out is None and self._buffer.numel() < size:
            self._buffer = torch.empty(max(size, BLOCK_BYTES), dtype=torch.uint8)
        part = self._buffer[:size] if out is None else out.reshape(-1).view(torch.uint8)
        view = part.numpy().data
        self._file.seek(self._stored.start + first * row_bytes)
        filled = 0
        while filled < size:
            got = self._file.readinto(view[filled:])
            if not got:
                raise CheckpointError(
                    f"{self._stored.path} is damaged: it ends {size - filled} bytes before row {first + count - 1} of "
                    "its table does; copy it again"
                )
            filled += got
        return part.view(self._stored.dtype).reshape(count, self._width)
