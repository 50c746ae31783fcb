"""Tables of a live model that begin again: initial values as at the very start, optimizer state zero."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torchrec.optim.keyed import KeyedOptimizer

from ctr_rec.schema.table import Table
from ctr_rec.sharding.initial import RowNumbers, by_row
from ctr_rec.sharding.parallelize import Parallel
from ctr_rec.sharding.tables import table_of, write_initial_values


def restart_tables(parallel: Parallel, tables: Sequence[Table], seed: int | str, numbers: RowNumbers = by_row) -> None:
    """Writes this rank's pieces of the given tables as `parallelize` would with this seed; no other table moves."""
    write_initial_values(parallel.model, tables, seed, numbers)
    zero_state(parallel.fused_optimizer, {t.name for t in tables})


@torch.no_grad()
def zero_state(optimizer: KeyedOptimizer, tables: Collection[str]) -> None:
    """Zeroes what the optimizer remembers of these tables' rows, on this rank.

    Adam's step count stays: it belongs to all tables of a kernel.
    """
    for path, entry in optimizer.state_dict()["state"].items():
        if table_of(path) in tables:
            for piece in _pieces(entry):
                piece.zero_()


def _pieces(entry: Any) -> Iterator[Tensor]:
    for value in entry.values():
        if isinstance(value, ShardedTensor):
            yield from (shard.tensor for shard in value.local_shards())
        elif isinstance(value, Tensor):
            yield value
