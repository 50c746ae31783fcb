"""The order of an epoch: which row groups share a buffer, and how many batches a buffer gives. Counts alone decide.

So the number of batches is known without opening the data, is the same in every epoch and on every rank, and batch k
can be reached without reading what comes before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctr_rec.batch.columns import Int64
from ctr_rec.batch.config import Alone, Batches, Packed
from ctr_rec.schema.manifest import RowGroup


@dataclass(frozen=True)
class BufferPlan:
    """Row groups read together. first_batch: global number, within the epoch, of the first of its batches."""

    number: int
    row_groups: tuple[RowGroup, ...]
    first_batch: int
    num_batches: int


def generator(seed: int, epoch: int, *purpose: int) -> np.random.Generator:
    """A counter-based generator of its own for every purpose: nothing depends on what was drawn before."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, *purpose])))


class EpochOrder:
    """Plans epochs over the row groups that hold impressions of one split (an index into SPLITS)."""

    def __init__(
        self,
        row_groups: tuple[RowGroup, ...],
        split: int,
        batches: Batches,
        buffer_row_groups: int,
        seed: int,
        shuffle: bool,
    ) -> None:
        self._groups = [g for g in row_groups if g.impressions[split] > 0]
        self._split = split
        self._batches = batches
        self._per_buffer = buffer_row_groups
        self._seed = seed
        self._shuffle = shuffle

    @property
    def num_impressions(self) -> int:
        return sum(g.impressions[self._split] for g in self._groups)

    def num_batches(self) -> int:
        """Per epoch; the same in every epoch."""
        if isinstance(self._batches, Packed):
            return sum(self._packed_batches(g) for g in self._groups)
        num_buffers, impressions = -(-len(self._groups) // self._per_buffer), self.num_impressions
        wanted = max(num_buffers, round(impressions / self._batches.impressions))
        if self._most is None:
            return wanted
        # Each buffer's batches are rounded up: num_buffers more than all together would need is enough for any cut.
        return max(wanted, min(impressions, impressions // self._most + num_buffers))

    @property
    def _most(self) -> int | None:
        """Impressions that a batch may hold at most, where the filling bounds them."""
        return self._batches.most if isinstance(self._batches, Alone) else None

    def plan(self, epoch: int) -> list[BufferPlan]:
        """Buffers of an epoch in the order they are read."""
        order = np.arange(len(self._groups))
        if self._shuffle:
            order = generator(self._seed, epoch, 0).permutation(len(self._groups))
        buffers = [
            tuple(self._groups[i] for i in order[at : at + self._per_buffer])
            for at in range(0, len(order), self._per_buffer)
        ]
        counts = self._counts(buffers)
        first = np.cumsum([0, *counts])
        return [BufferPlan(b, groups, int(first[b]), counts[b]) for b, groups in enumerate(buffers)]

    def _counts(self, buffers: list[tuple[RowGroup, ...]]) -> list[int]:
        if isinstance(self._batches, Packed):
            return [sum(self._packed_batches(g) for g in groups) for groups in buffers]
        impressions = np.array([sum(g.impressions[self._split] for g in groups) for groups in buffers], np.int64)
        least = np.ones_like(impressions) if self._most is None else -(-impressions // self._most)
        return [int(n) for n in _share(self.num_batches(), impressions, least)]

    def _packed_batches(self, group: RowGroup) -> int:
        """Enough for what the row group's impressions can need at most: see packing.pack for why this suffices."""
        assert isinstance(self._batches, Packed)
        impressions = group.impressions[self._split]
        tokens = min(group.events, impressions * self._batches.reach) + impressions
        return -(-tokens // (self._batches.tokens - self._batches.reach))


def _share(num_batches: int, impressions: Int64, least: Int64) -> Int64:
    """Batches per buffer: at least `least` (one or more), at most one per impression, `num_batches` in all.

    The others go by cumulative rounding of the impressions beyond the least, which cannot give a buffer more batches
    than impressions since there are no more batches than impressions in all.
    """
    spare = num_batches - int(least.sum())
    beyond = int((impressions - least).sum())
    if beyond == 0:
        return least
    ends = np.concatenate([[0], np.cumsum(impressions - least)])
    return least + np.diff(ends * spare // beyond)
