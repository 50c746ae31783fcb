"""The same question as `row_map` answers, id by id in plain Python: what `ctr-rec warm-start verify` compares with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ctr_rec.checkpoint.warm_start.config import TableWarmStart
from ctr_rec.checkpoint.warm_start.id_rule import IdRule
from ctr_rec.checkpoint.warm_start.id_stream import IdStream
from ctr_rec.checkpoint.warm_start.parquet import open_file
from ctr_rec.checkpoint.warm_start.rows import RowReader
from ctr_rec.checkpoint.warm_start.target import TargetTable
from ctr_rec.checkpoint.warm_start.widths import projection
from ctr_rec.schema.hashing import hashed_rows


def ids_of_rows(table: TargetTable, rows: Sequence[int]) -> dict[int, list[str]]:
    """The ids of some of our rows, row 0 aside."""
    wanted = {row: [] for row in rows if row > 0}
    for batch in open_file(table.vocabulary).iter_batches(columns=["id", "row"]):
        for text, row in zip(batch["id"].to_pylist(), batch["row"].to_pylist(), strict=True):
            if row in wanted:
                wanted[row].append(text)
    return wanted


def source_rows(ids: Sequence[str], rule: IdRule) -> dict[str, set[int]]:
    """The source's rows of each id; ids that it does not have are left out."""
    if rule.mapped is not None and rule.stream is None and rule.hashed is None:
        return _in_stream(ids, rule.mapped)
    names = {text: {text} for text in ids}
    if rule.mapped is not None:
        names = {text: set() for text in ids}
        for batch in rule.mapped.read():
            assert batch.targets is not None
            for text, theirs in zip(batch.ids.to_list(), batch.targets.to_list(), strict=True):
                if text in names:
                    names[text].add(theirs)
    every = sorted(set().union(*names.values()))
    if rule.hashed is not None:
        assert rule.hashed.rows is not None
        rows = hashed_rows(every, rule.hashed.rows, rule.hashed.first).tolist()
        known = {text: {row} for text, row in zip(every, rows, strict=True)}
    else:
        assert rule.stream is not None
        known = _in_stream(every, rule.stream)
    found = {text: set().union(*(known.get(t, set()) for t in theirs)) for text, theirs in names.items()}
    return {text: rows for text, rows in found.items() if rows}


def _in_stream(ids: Sequence[str], stream: IdStream) -> dict[str, set[int]]:
    wanted, found = set(ids), {}
    for batch in stream.read():
        for text, row in zip(batch.ids.to_list(), batch.rows.tolist(), strict=True):
            if text in wanted:
                found.setdefault(text, set()).add(row)
    return found


def straight_vector(reader: RowReader, row: int, dim: int, settings: TableWarmStart) -> Tensor:
    """A source's vector in our width, float32 [dim]."""
    vector = reader.row(row).double().numpy()
    if settings.dim == "project" and len(vector) != dim:
        vector = vector @ projection(len(vector), dim, settings.projection_seed)
    return torch.from_numpy(np.pad(vector, (0, max(0, dim - len(vector))))[:dim].astype(np.float32))
