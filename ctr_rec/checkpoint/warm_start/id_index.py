"""Finds ids of ours among batches of a source's ids: by a 64-bit hash first, then by the text of each candidate.

Our ids are sorted by hash, in words of which the low bits hold the id's position (one fast sort of whole numbers); a
directory of the high bits says where each bucket begins. What is left of the hash decides whom to compare, and the text
decides, so an unlucky hash costs time and nothing else. Legend: O ids of ours, B of a batch, P pairs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from ctr_rec.checkpoint.warm_start.rows import Int64

UInt64 = npt.NDArray[np.uint64]


def quick_hash(ids: pl.Series) -> UInt64:
    """A hash of this process only: fast, and without a promise over versions."""
    return ids.hash(seed=1).to_numpy()


class IdIndex:
    """Positions of ids; an id may occur several times."""

    def __init__(self, ids: pl.Series) -> None:
        self._ids = ids
        size = len(ids)
        self._bits = max(1, (max(size, 1) - 1).bit_length())
        self._position = np.uint64((1 << self._bits) - 1)
        self._words = (quick_hash(ids) & ~self._position) | np.arange(size, dtype=np.uint64)
        self._words.sort()
        self._shift = np.uint64(64 - self._bits)
        counts = np.bincount((self._words >> self._shift).astype(np.int64), minlength=1 << self._bits)
        self._starts = np.zeros((1 << self._bits) + 1, np.int64)
        np.cumsum(counts, out=self._starts[1:])

    def find(self, ids: pl.Series) -> tuple[Int64, Int64]:
        """Pairs (position of ours, position in the batch) with equal text, ascending by position in the batch."""
        ours_P, theirs_P = self._candidates(quick_hash(ids) & ~self._position)
        if not len(ours_P):
            return ours_P, theirs_P
        ours_P, theirs_P = _in_order(ours_P, theirs_P, len(ids))
        same = (self._ids.gather(ours_P) == ids.gather(theirs_P)).to_numpy()
        return (ours_P, theirs_P) if same.all() else (ours_P[same], theirs_P[same])

    def _candidates(self, hash_B: UInt64) -> tuple[Int64, Int64]:
        bucket = (hash_B >> self._shift).astype(np.int64)
        at, end = self._starts[bucket], self._starts[bucket + 1]
        live, ours, theirs = np.arange(len(hash_B)), [], []
        while True:
            more = np.flatnonzero(at < end)
            if len(more) == 0:
                break
            at, end, hash_B, live = at[more], end[more], hash_B[more], live[more]
            words = self._words[at]
            hit = np.flatnonzero((words & ~self._position) == hash_B)
            ours.append((words[hit] & self._position).astype(np.int64))
            theirs.append(live[hit])
            at = at + 1
        if not ours:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        return np.concatenate(ours), np.concatenate(theirs)


def _in_order(ours_P: Int64, theirs_P: Int64, size: int) -> tuple[Int64, Int64]:
    """Sorted by the second; without a sort where nobody in the batch has two candidates."""
    slot = np.full(size, -1, np.int64)
    slot[theirs_P] = ours_P
    filled = np.flatnonzero(slot >= 0)
    if len(filled) == len(theirs_P):
        return slot[filled], filled
    order = np.lexsort((ours_P, theirs_P))
    return ours_P[order], theirs_P[order]
