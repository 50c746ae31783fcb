"""The tensors of a distributed checkpoint, whole by name and read in slices of rows: ours, or any other job's.

Nothing that is stored is run, and a rank count or a placement leaves no trace: a table of many shards reads as one.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata

from ctr_rec.checkpoint.safe_reader import read_metadata, read_tensor
from ctr_rec.errors import CheckpointError
from ctr_rec.files import AnyPath
from ctr_rec.sharding.tables import is_table, table_of

SLICE_BYTES = 1 << 25
MODEL = "model."
STATE = "table_optimizer."


@dataclass(frozen=True)
class Chunk:
    """A block of a tensor, and the bytes [start, start + length) of the file that hold it."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    path: AnyPath
    start: int
    length: int


@dataclass(frozen=True)
class WholeTensor:
    """A tensor of a checkpoint. name: as the checkpoint has it."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    chunks: tuple[Chunk, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def rows(self, first: int, count: int) -> Tensor:
        """[count, ...] from row `first` on. Raises CheckpointError where a file is damaged or does not hold them."""
        whole = torch.empty((count, *self.shape[1:]), dtype=self.dtype)
        filled = 0
        for chunk in self.chunks:
            low, high = max(first, chunk.offsets[0]), min(first + count, chunk.offsets[0] + chunk.sizes[0])
            if low >= high or 0 in chunk.sizes:
                continue
            part = whole[low - first : high - first]
            for axis in range(1, len(self.shape)):
                part = part.narrow(axis, chunk.offsets[axis], chunk.sizes[axis])
            self._fill(chunk, part, [low - chunk.offsets[0], *[0] * (len(self.shape) - 1)])
            filled += part.numel()
        if filled != whole.numel():
            raise CheckpointError(
                f"{self.name}: rows {first} to {first + count} are not all in the checkpoint; copy it again"
            )
        return whole

    def whole(self) -> Tensor:
        """All of it: for what is small."""
        if self.shape:
            return self.rows(0, self.shape[0])
        value = torch.empty((), dtype=self.dtype)
        self._fill(self.chunks[0], value, [])
        return value

    def slices(self, rows: int) -> Iterator[tuple[int, Tensor]]:
        """First row and rows, `rows` at a time."""
        for first in range(0, self.shape[0], rows):
            yield first, self.rows(first, min(rows, self.shape[0] - first))

    def _fill(self, chunk: Chunk, target: Tensor, offsets: list[int]) -> None:
        try:
            read_tensor(chunk.path, chunk.start, chunk.length, target, offsets)
        except FileNotFoundError as error:
            raise CheckpointError(f"{chunk.path} is missing: it holds a part of {self.name}; copy it again") from error
        # torch's own reader, which takes what is not stored plainly, raises the last two.
        except (ValueError, EOFError, OSError, RuntimeError, pickle.UnpicklingError) as error:
            reason = str(error).partition(". ")[0]
            raise CheckpointError(f"{chunk.path} cannot be read for {self.name}: {reason}; copy it again") from error


@dataclass(frozen=True)
class StoredTable:
    """A table. parameter: its name in the model (`...embeddings.<table>.weight`). states: of its optimizer, by key."""

    name: str
    parameter: str
    weight: WholeTensor
    states: dict[str, WholeTensor]

    @property
    def rows(self) -> int:
        return self.weight.shape[0]

    @property
    def rows_per_slice(self) -> int:
        """As many as pass through memory at once."""
        row_bytes = sum(t.bytes for t in (self.weight, *self.states.values())) // max(1, self.rows)
        return max(1, SLICE_BYTES // max(1, row_bytes))


@dataclass(frozen=True)
class Contents:
    """What a distributed checkpoint holds. dense: tensors of the model that are no tables, by parameter name.

    others: tensors of neither (the dense optimizer's). unread: names of entries that are no tensors.
    """

    folder: AnyPath
    tables: tuple[StoredTable, ...]
    dense: dict[str, WholeTensor]
    others: dict[str, WholeTensor]
    unread: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        of_tables = (t for table in self.tables for t in (table.weight, *table.states.values()))
        return sum(t.bytes for t in (*of_tables, *self.dense.values(), *self.others.values()))


def read_contents(folder: AnyPath) -> Contents:
    """Reads the index and sorts tensors by their names.

    In our checkpoints all of the model is below `model.` and the tables' optimizer state below `table_optimizer.`; in
    another job's, a name that ends like a table's is one, and what continues it is its state.

    Raises:
        CheckpointError: the index is missing, damaged, or names code.
    """
    metadata = read_metadata(folder)
    found, unread = {}, []
    for name, entry in metadata.state_dict_metadata.items():
        if isinstance(entry, TensorStorageMetadata):
            found[name] = whole_tensor(folder, metadata, name, entry)
        else:
            unread.append(name)
    names = [name for name in found if is_table(name) and len(found[name].shape) == 2]
    states = {name: _states(name, found) for name in names}
    taken = {*names, *(s.name for of_table in states.values() for s in of_table.values())}
    tables = tuple(
        StoredTable(table_of(name), _parameter(name), found[name], states[name])
        for name in sorted(names, key=lambda name: (table_of(name), name))
    )
    rest = {name: tensor for name, tensor in found.items() if name not in taken}
    ours = any(name.startswith(MODEL) for name in rest)
    dense = {_parameter(n): t for n, t in rest.items() if n.startswith(MODEL) or not ours}
    others = {n: t for n, t in rest.items() if ours and not n.startswith(MODEL)}
    return Contents(folder, tables, dense, others, tuple(sorted(unread)))


def whole_tensor(folder: AnyPath, metadata: Metadata, name: str, entry: TensorStorageMetadata) -> WholeTensor:
    """Where a tensor's blocks lie. Raises CheckpointError when the index does not say it of one."""
    chunks = []
    for chunk in entry.chunks:
        info = (metadata.storage_data or {}).get(MetadataIndex(name, chunk.offsets))
        if info is None:
            raise CheckpointError(f"{folder / '.metadata'} does not say where {name} at {tuple(chunk.offsets)} lies")
        place = (folder / info.relative_path, info.offset, info.length)
        chunks.append(Chunk(tuple(chunk.offsets), tuple(chunk.sizes), *place))
    return WholeTensor(name, tuple(entry.size), entry.properties.dtype, tuple(chunks))


def _parameter(name: str) -> str:
    return name.removeprefix(MODEL)


def _states(table: str, found: dict[str, WholeTensor]) -> dict[str, WholeTensor]:
    """Tensors that continue the table's name, with one entry per row, by the last part of their name."""
    rows, inside = found[table].shape[0], f".{_parameter(table)}."
    states = {}
    for name, tensor in found.items():
        if inside in f".{name}" and tensor.shape[:1] == (rows,):
            states[name.rpartition(".")[2]] = tensor
    return states
