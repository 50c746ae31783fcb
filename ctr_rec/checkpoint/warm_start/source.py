"""What a source offers: tables with the state of their optimizer, and weights that are no tables."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ctr_rec.checkpoint.manifest import Manifest
from ctr_rec.checkpoint.stored_tensor import StoredTensor
from ctr_rec.checkpoint.warm_start.rows import Piece, RowReader, StoredRows
from ctr_rec.errors import CheckpointError
from ctr_rec.sharding.tables import is_table, table_of

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_STATE = re.compile(
    r"(?:^|\.)(?P<parameter>(?:embeddings|embedding_bags)\.(?P<table>[^.]+)\.weight)\."
    r"(?:.+\.)?(?P<key>momentum1|momentum2|sum|exp_avg|exp_avg_sq)$"
)


@dataclass(frozen=True)
class SourceTable:
    """One stored table.

    states: readers of its optimizer's state by key (momentum1, sum, exp_avg...). id_files: of a Parquet source, in
    the order of the table's rows.
    """

    name: str
    vectors: RowReader
    states: Mapping[str, RowReader]
    id_files: tuple[Path, ...] = ()

    @property
    def rows(self) -> int:
        return self.vectors.rows


@dataclass(frozen=True)
class Source:
    """A source, opened: nothing but indexes was read.

    tables: by full name. dense: other tensors by name. manifest: of a checkpoint of ours. unread: entries that are
    no tensors, or no tables and cut in pieces; they are never read.
    """

    path: str
    kind: str
    tables: Mapping[str, SourceTable]
    dense: Mapping[str, StoredTensor] = field(default_factory=dict)
    manifest: Manifest | None = None
    unread: tuple[str, ...] = ()

    def find(self, name: str) -> SourceTable | None:
        """The table of a full name, or of a short one that only one table has.

        Raises:
            CheckpointError: several tables have this short name.
        """
        if name in self.tables:
            return self.tables[name]
        found = [full for full, table in self.tables.items() if table.name == name]
        if len(found) > 1:
            raise CheckpointError(
                f"{self.path} has {len(found)} tables {name!r}: {', '.join(sorted(found))}; set "
                f"warm_start.tables.<ours>.source to one of them"
            )
        return self.tables[found[0]] if found else None

    def offered(self, name: str) -> str:
        """The names nearest to one that is not there, for a message."""
        names = sorted({table.name for table in self.tables.values()})
        return ", ".join(difflib.get_close_matches(name, names, n=5, cutoff=0.4) or names[:20]) or "none"


def from_tensors(
    path: str, kind: str, tensors: Mapping[str, tuple[tuple[int, ...], list[Piece]]], manifest: Manifest | None = None
) -> Source:
    """Sorts named tensors (shape, pieces) into tables, states and dense weights by their names.

    Raises:
        CheckpointError: a table is no matrix of floats, or its pieces do not cover it.
    """
    tables, states, dense, unread = {}, {}, {}, []
    for name, (shape, pieces) in tensors.items():
        state = _STATE.search(name)
        if is_table(name):
            _check_table(path, name, shape, pieces)
            tables[name] = StoredRows(name, shape, pieces, path)
        elif state is not None and 1 <= len(shape) <= 2 and pieces and pieces[0].stored.dtype in FLOATS:
            states.setdefault(state["parameter"], []).append((name, state["key"], shape, pieces))
        elif len(pieces) == 1:
            dense[name] = pieces[0].stored
        else:
            unread.append(name)
    found = {
        name: SourceTable(table_of(name), rows, _states_of(path, name, rows, states)) for name, rows in tables.items()
    }
    return Source(path, kind, found, dense, manifest, tuple(unread))


def _check_table(path: str, name: str, shape: tuple[int, ...], pieces: list[Piece]) -> None:
    dtype = pieces[0].stored.dtype if pieces else None
    if len(shape) != 2 or dtype not in FLOATS:
        raise CheckpointError(
            f"{path}: table {name} has shape {shape} and dtype {dtype}; expected [rows, width] of float32, float16, "
            "bfloat16 or float64"
        )


def _states_of(path: str, table: str, vectors: RowReader, states: Mapping[str, list]) -> dict[str, RowReader]:
    """The state whose name fits the parameter's best: several models may lie in one checkpoint."""
    parts = table.split(".")
    candidates = states.get(".".join(parts[-3:]), [])
    # The longest end of the parameter's name that some state's name contains.
    for start in range(len(parts) - 2):
        end = ".".join(parts[start:])
        fitting = [c for c in candidates if f".{end}." in f".{c[0]}."]
        if fitting:
            candidates = fitting
            break
    found: dict[str, RowReader] = {}
    for name, key, shape, pieces in candidates:
        if shape[0] == vectors.rows:
            flat = len(shape) == 1 or (shape[1] == 1 and vectors.width > 1)
            shaped = shape[:1] if flat else shape
            # Two that fit equally well say nothing; the first would be a guess.
            if key in found:
                raise CheckpointError(f"{path}: table {table} has two optimizer states {key} ({name} is one of them)")
            found[key] = StoredRows(name, shaped, pieces, path)
    return found
