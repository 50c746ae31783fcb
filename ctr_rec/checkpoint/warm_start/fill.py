"""Writes source rows into the pieces of a table (or of its optimizer's state) that this rank holds.

Rows are read in the order of the source's files, once for each range of our rows. Legend: N rows of a block, P pairs
(our row, source row), D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ctr_rec.checkpoint.warm_start.row_map import RowMap
from ctr_rec.checkpoint.warm_start.rows import Int64, RowReader, whole_rows
from ctr_rec.errors import CheckpointError
from ctr_rec.sharding.tables import LocalShard


@torch.no_grad()
def fill(
    shards: Sequence[LocalShard], pairs: RowMap, reader: RowReader, change: Callable[[Tensor], Tensor], name: str
) -> None:
    """Fills the rows of `pairs` in shards that hold the rows from `pairs.low` on.

    change: a block as stored -> float32 of our whole width. name: of our table, for messages.

    Raises:
        CheckpointError: a vector that is not finite, or the source cannot be read.
    """
    if pairs.sources_P is not None:
        _clear(shards, pairs)
    memory = _memory(shards, pairs, reader) if change is Tensor.float else None
    for start, block in reader.blocks(pairs.source_P, memory):
        stop = start + block.shape[0]
        _check_finite(block, pairs.source_P[start:stop], pairs.target_P[start:stop], reader, name)
        if memory is not None and block.data_ptr() == memory[start].data_ptr():
            continue
        values_ND = change(block)
        target_N = pairs.target_P[start:stop] - pairs.low
        if pairs.sources_P is None:
            _copy(shards, target_N, values_ND)
        else:
            _add(shards, target_N, values_ND, pairs.sources_P[start:stop])


def _memory(shards: Sequence[LocalShard], pairs: RowMap, reader: RowReader) -> Tensor | None:
    """Where rows that follow each other here as in the source can be read to at once, as stored; None elsewhere."""
    target_P = pairs.target_P
    if len(shards) != 1 or pairs.sources_P is not None or len(target_P) == 0:
        return None
    weight = shards[0].weight
    fits = weight.device.type == "cpu" and weight.is_contiguous() and weight.dtype == reader.dtype
    if not fits or weight[0].numel() != reader.width or not bool((np.diff(target_P) == 1).all()):
        return None
    first = int(target_P[0]) - pairs.low
    return weight[first : first + len(target_P)].reshape(len(target_P), reader.width)


def _check_finite(block: Tensor, source_N: Int64, target_N: Int64, reader: RowReader, name: str) -> None:
    low, high = torch.aminmax(block)
    if bool(torch.isfinite(low) & torch.isfinite(high)):
        return
    bad = int(torch.nonzero(~torch.isfinite(block).all(dim=1))[0])
    row = int(source_N[bad])
    value = block[bad][~torch.isfinite(block[bad])][0].item()
    raise CheckpointError(
        f"table {name}: source row {row} (for our row {target_N[bad]}) holds {value} in {reader.file_of(row)}; mend or "
        "remove this row, or leave the table out with warm_start.skip"
    )


def _columns(shard: LocalShard, values_ND: Tensor) -> Tensor:
    column, width = shard.offset[1], shard.weight.shape[-1] if shard.weight.dim() == 2 else 1
    part = values_ND if width == values_ND.shape[1] else values_ND[:, column : column + width]
    return part.reshape(-1) if shard.weight.dim() == 1 else part


def _copy(shards: Sequence[LocalShard], target_N: Int64, values_ND: Tensor) -> None:
    side_by_side = bool((np.diff(target_N) == 1).all())
    for shard in shards:
        weight, part = shard.weight, _columns(shard, values_ND)
        if side_by_side:
            weight[int(target_N[0]) : int(target_N[-1]) + 1].copy_(part)
        elif weight.device.type == "cpu" and weight.dim() == 2 and weight.is_contiguous() and part.is_contiguous():
            whole_rows(weight)[target_N] = whole_rows(part.to(weight.dtype))
        else:
            index = torch.from_numpy(target_N).to(weight.device)
            weight.index_copy_(0, index, part.to(weight.device, weight.dtype))


def _clear(shards: Sequence[LocalShard], pairs: RowMap) -> None:
    index = torch.from_numpy(np.unique(pairs.target_P) - pairs.low)
    for shard in shards:
        shard.weight.index_fill_(0, index.to(shard.weight.device), 0.0)


def _add(shards: Sequence[LocalShard], target_N: Int64, values_ND: Tensor, sources_N: Int64) -> None:
    """Adds each row's share of a mean. A row that stands twice in the block is added in turns, so that sums have one
    order, that of the source's rows."""
    values_ND = values_ND / torch.from_numpy(sources_N).float()[:, None]
    left = np.arange(len(target_N))
    while len(left):
        _, first = np.unique(target_N[left], return_index=True)
        now = left[first]
        index = torch.from_numpy(target_N[now])
        part_ND = values_ND[torch.from_numpy(now)]
        for shard in shards:
            device = shard.weight.device
            part = _columns(shard, part_ND).to(device, shard.weight.dtype)
            shard.weight[index.to(device)] += part
        left = np.delete(left, first)
