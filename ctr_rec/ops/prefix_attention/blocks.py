"""How the queries are cut into blocks: neighbours that share keys, none of them too large.

Legend: Q queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class BlockLimits:
    """What a block may cost, in pairs of one query and one key. A pair costs the same whether it is visible or not.

    grain: queries per smallest piece; pieces are merged into blocks.
    overhead_pairs: number of pairs that cost as much as starting a block; two pieces stay apart when a joint span of
        keys would compute more needless pairs than that.
    max_pairs: size at which a block stops growing, so that its scratch stays in the cache.
    """

    grain: int
    overhead_pairs: int
    max_pairs: int

    @staticmethod
    def for_device(device: torch.device) -> BlockLimits:
        """Measured on 2 CPU cores with 4 heads of width 16; elsewhere a kernel launch outweighs far more pairs."""
        if device.type == "cpu":
            return BlockLimits(grain=48, overhead_pairs=3_000, max_pairs=48_000)
        return BlockLimits(grain=128, overhead_pairs=1 << 19, max_pairs=1 << 22)


@dataclass(frozen=True)
class Block:
    """Queries start:stop against keys key_start:key_stop, the joint span of what they see."""

    start: int
    stop: int
    key_start: int
    key_stop: int

    @property
    def num_rows(self) -> int:
        return self.stop - self.start

    @property
    def num_keys(self) -> int:
        return self.key_stop - self.key_start

    @property
    def num_pairs(self) -> int:
        return self.num_rows * self.num_keys

    def joined(self, later: Block) -> Block:
        """One block for the queries of both; a block without keys does not widen the span."""
        if self.num_keys == 0 or later.num_keys == 0:
            span = later if self.num_keys == 0 else self
            return Block(self.start, later.stop, span.key_start, span.key_stop)
        low, high = min(self.key_start, later.key_start), max(self.key_stop, later.key_stop)
        return Block(self.start, later.stop, low, high)


def _piece_starts(lo_Q: Int64, hi_Q: Int64, grain: int) -> Int64:
    """Every grain-th query, and in between at most one place per grain where two neighbours share no key."""
    num_queries = len(lo_Q)
    grid = np.arange(0, num_queries, grain, dtype=np.int64)
    apart = np.flatnonzero((lo_Q[1:] >= hi_Q[:-1]) | (hi_Q[1:] <= lo_Q[:-1])) + 1
    first = np.unique(apart // grain, return_index=True)[1]
    return np.union1d(grid, apart[first])


def cut(lo_Q: Int64, hi_Q: Int64, num_keys: int, limits: BlockLimits) -> Iterator[Block]:
    """Merge neighbouring pieces as long as that is cheaper than starting another block."""
    if len(lo_Q) == 0:
        return
    starts = _piece_starts(lo_Q, hi_Q, limits.grain)
    stops = np.append(starts[1:], len(lo_Q))
    # A query that sees nothing must not widen the span, wherever its empty range lies.
    empty_Q = lo_Q == hi_Q
    lows = np.minimum.reduceat(np.where(empty_Q, num_keys, lo_Q), starts)
    highs = np.maximum.reduceat(np.where(empty_Q, 0, hi_Q), starts)
    lows = np.minimum(lows, highs)
    pieces = map(Block, starts.tolist(), stops.tolist(), lows.tolist(), highs.tolist())
    block = next(pieces)
    for piece in pieces:
        joint = block.joined(piece)
        needless = joint.num_pairs - block.num_pairs - piece.num_pairs
        if needless < limits.overhead_pairs and joint.num_pairs <= limits.max_pairs:
            block = joint
        else:
            yield block
            block = piece
    yield block
