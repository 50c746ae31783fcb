"""Rows that the source does not have: the mean of those that it has, the same to the bit on any number of ranks.

A sum of floats depends on its order, and ranks hold rows in another order. Sums of whole numbers do not: each value is
rounded to a grid of 2^-40, which is finer than float32 for anything above 10^-5, and added as two integers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ctr_rec.checkpoint.warm_start.row_map import RowMap
from ctr_rec.errors import CheckpointError
from ctr_rec.sharding.group import Group
from ctr_rec.sharding.tables import LocalShard

GRID = 40
LARGEST = 2.0**21
ROWS_AT_ONCE = 1 << 14


class ExactSums:
    """Sums and sums of squares of the columns of a table, over rows that several ranks hold.

    rows: how many were added. Squares count as at most LARGEST, which is enough to say that a scale is absurd.
    """

    def __init__(self, dim: int) -> None:
        self._parts = np.zeros((2, 2, dim), np.int64)
        self._numbers = 0

    def add(self, values: Tensor, column: int, name: str) -> None:
        """values: float [N, D'], columns `column` onwards."""
        found = values.double().cpu().numpy()
        columns = slice(column, column + found.shape[1])
        if float(np.abs(found).max(initial=0.0)) > LARGEST:
            largest = found.flat[np.abs(found).argmax()]
            raise CheckpointError(f"table {name}: a matched row holds {largest}; expected numbers below {LARGEST:.0f}")
        self._numbers += found.size
        for which, numbers in enumerate((found, np.minimum(found * found, LARGEST))):
            grid = np.rint(np.ldexp(numbers, GRID)).astype(np.int64)
            self._parts[which, 0, columns] += (grid >> 32).sum(axis=0)
            self._parts[which, 1, columns] += (grid & 0xFFFFFFFF).sum(axis=0)

    def over_ranks(self, group: Group) -> tuple[np.ndarray, float]:
        """Means of the columns, float64 [D], and the root of the mean square of all numbers. A collective."""
        dim = self._parts.shape[2]
        sent = np.concatenate([self._parts.reshape(-1), [self._numbers]])
        found = group.all_reduce_sum(torch.from_numpy(sent)).numpy()
        numbers = max(1, int(found[-1]))
        sums, squares = (
            [(int(high) << 32) + int(low) for high, low in zip(*part, strict=True)]
            for part in found[:-1].reshape(self._parts.shape)
        )
        mean = np.array([n * dim / numbers / 2.0**GRID for n in sums])
        return mean, float(np.sqrt(sum(squares) / numbers / 2.0**GRID))


def matched_sums(shards: Sequence[LocalShard], pairs: RowMap, sums: ExactSums, stride: int, name: str) -> None:
    """Adds this rank's matched rows, read back from the shards; only those whose number `stride` divides."""
    rows = np.flatnonzero(pairs.matched_R)
    rows = rows[(rows + pairs.low) % stride == 0]
    for shard in shards:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            index = torch.from_numpy(rows[start : start + ROWS_AT_ONCE]).to(shard.weight.device)
            sums.add(shard.weight.index_select(0, index), shard.offset[1], name)


@torch.no_grad()
def fill_new(shards: Sequence[LocalShard], pairs: RowMap, mean: np.ndarray) -> None:
    """Writes the mean into rows that nothing led to, row 0 aside."""
    new = ~pairs.matched_R
    if pairs.low == 0 and len(new):
        new[0] = False
    index = torch.from_numpy(np.flatnonzero(new))
    vector = torch.from_numpy(mean.astype(np.float32))
    for shard in shards:
        column, width = shard.offset[1], shard.weight.shape[1]
        device = shard.weight.device
        part = vector[column : column + width].to(device)
        for start in range(0, len(index), ROWS_AT_ONCE):
            shard.weight[index[start : start + ROWS_AT_ONCE].to(device)] = part
