"""Lots: consecutive batches of a buffer that are made together, then cut apart without a copy.

Everything that is done once per batch costs some hundred calls, however short the arrays are; a lot shares them.

Legend: B batches of the lot, R rows of a level over all of them, V values of a ragged column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ctr_rec.batch.batch import Jagged
from ctr_rec.batch.columns import Array, Int64, Ragged, Scratch, distinct, ranges


@dataclass(frozen=True)
class Lot:
    """One rank's part of B global batches, one after the other. U users, T events, N impressions over all of them.

    user_bounds, event_bounds, impression_bounds: int64 [B + 1], where each batch begins and ends on a level.
    user: int64 [U], rows of the buffer. num_impressions: int64 [U]. event_offsets: int64 [U + 1], through the lot.
    events: int64 [T], own, visible: int64 [N], positions in the buffer.
    impression_event, visible_end: int64 [N] and the values of histories: positions among the events of the batch.
    real: bool [B], False where the rank has nothing and holds a stand-in.
    global_impressions, global_events: int64 [B].
    """

    user_bounds: Int64
    event_bounds: Int64
    impression_bounds: Int64
    user: Int64
    num_impressions: Int64
    event_offsets: Int64
    events: Int64
    own: Int64
    visible: Int64
    impression_event: Int64
    visible_end: Int64
    histories: dict[str, Ragged]
    real: npt.NDArray[np.bool_]
    global_impressions: Int64
    global_events: Int64


def per_row(values: Array, bounds: Int64) -> Array:
    """One value per batch, repeated for each of its rows. [R]."""
    return values.repeat(bounds[1:] - bounds[:-1])


def split(values: Array, bounds: Int64) -> Sequence[Tensor]:
    """Each batch's rows as a tensor on the same memory. What a batch is made of is contiguous and writable."""
    whole = torch.from_numpy(values)
    return whole.split((bounds[1:] - bounds[:-1]).tolist())


def split_offsets(offsets: Int64, bounds: Int64) -> Sequence[Tensor]:
    """Each batch's offsets, beginning at 0. offsets: int64 [R + 1], through the lot."""
    count = bounds[1:] - bounds[:-1] + 1
    rows = ranges(bounds[:-1], count)
    local = offsets.take(rows)
    local -= offsets[bounds[:-1]].repeat(count)
    return torch.from_numpy(local).split(count.tolist())


def split_ragged(column: Ragged, bounds: Int64) -> list[Jagged]:
    """Each batch's rows of a ragged column."""
    values = split(column.values, column.offsets[bounds])
    return [Jagged(v, o) for v, o in zip(values, split_offsets(column.offsets, bounds), strict=True)]


def distinct_each(
    parts: Sequence[Array], bounds: Sequence[Int64], num_batches: int, size: int, scratch: Scratch
) -> tuple[Int64, Int64, list[Int64]]:
    """`distinct` inside every batch: values, batch after batch; their bounds, int64 [B + 1]; each part's indexes.

    bounds: of each part. An index counts from the first distinct value of its batch.
    """
    if num_batches * size <= 4 * sum(len(p) for p in parts):
        return _marked(parts, bounds, num_batches, size, scratch)
    # Too sparse for a mark per batch and value.
    each = [
        distinct([p[b[k] : b[k + 1]] for p, b in zip(parts, bounds, strict=True)], size, scratch)
        for k in range(num_batches)
    ]
    found = np.concatenate([f for f, _ in each])
    ends = np.cumsum([0, *(len(f) for f, _ in each)])
    return found, ends, [np.concatenate([i[p] for _, i in each]) for p in range(len(parts))]


def _marked(
    parts: Sequence[Array], bounds: Sequence[Int64], num_batches: int, size: int, scratch: Scratch
) -> tuple[Int64, Int64, list[Int64]]:
    """A mark per batch and value. The sums are as wide as an index: others are several times slower."""
    base = np.arange(num_batches + 1) * size
    keys = [p + per_row(base[:-1], b) for p, b in zip(parts, bounds, strict=True)]
    mark, position = scratch.mark(num_batches * size), scratch.position(num_batches * size)
    for key in keys:
        mark[key] = True
    found = mark.nonzero()[0]
    ends = found.searchsorted(base)
    position[found] = np.arange(len(found)) - per_row(ends[:-1], ends)
    found -= per_row(base[:-1], ends)
    return found, ends, [position.take(key) for key in keys]
