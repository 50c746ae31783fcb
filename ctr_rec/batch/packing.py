"""Which impressions share a batch, and which stretch of its user's events each needs.

Legend: N impressions of a buffer in their canonical order (user, visible end, own position), B batches, K pieces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctr_rec.batch.columns import Int64, offsets_of, ranges


@dataclass(frozen=True)
class Impressions:
    """The impressions of one split in a buffer, canonical order; all int64 [N].

    own, visible: own position and end of the visible prefix, in the buffer's events. user: row of the buffer.
    start: where the user's events begin.
    """

    own: Int64
    visible: Int64
    user: Int64
    start: Int64


@dataclass(frozen=True)
class Pieces:
    """Stretches of users' events, [start, end) in the buffer, and the impressions that belong to each. int64 [K]."""

    user: Int64
    start: Int64
    end: Int64
    num_impressions: Int64


@dataclass(frozen=True)
class Portions:
    """Batch b holds the impressions line[bounds[b] : bounds[b + 1]]. line: int64 [N], bounds: int64 [B + 1]."""

    line: Int64
    bounds: Int64

    def batch(self, index: int) -> Int64:
        """Numbers of the impressions of one batch, in canonical order."""
        return np.sort(self.line[self.bounds[index] : self.bounds[index + 1]])


def scatter(num_impressions: int, num_batches: int, random: np.random.Generator | None) -> Portions:
    """Impressions in random order (file order without a generator), cut into nearly equal batches."""
    line = random.permutation(num_impressions) if random is not None else np.arange(num_impressions)
    return Portions(line.astype(np.int64), np.arange(num_batches + 1) * num_impressions // num_batches)


def pack(found: Impressions, reach: int, num_batches: int, random: np.random.Generator | None) -> Portions:
    """Users in random order (file order without a generator), cut by tokens.

    On the line of tokens an impression stands for itself and for the events, `reach` at most, that became visible
    since the user's previous one. The line is cut into equal parts; a user that is cut brings `reach` events along.
    A batch therefore has at most ceil(line / num_batches) + reach tokens: within the budget if num_batches is
    line / (budget - reach) or more. The manifest bounds the line: at most the events of the row group, at most
    `reach` per impression, and one per impression.
    """
    n = len(found.own)
    first = np.flatnonzero(np.diff(found.user, prepend=-1))
    count = np.diff(np.append(first, n))
    users = random.permutation(len(first)) if random is not None else np.arange(len(first))
    line = ranges(first[users], count[users])
    user, visible, start = found.user[line], found.visible[line], found.start[line]
    fresh, opens = _fresh(user, visible, start, reach)
    ends = np.cumsum(fresh + 1)
    batch = (ends - 1) * num_batches // max(int(ends[-1]), 1)
    cuts = np.searchsorted(batch, np.arange(num_batches)).astype(np.int64)
    return Portions(line, _at_least_one(_whole(cuts, opens, visible, start, reach), n))


def _fresh(user: Int64, visible: Int64, start: Int64, reach: int) -> tuple[Int64, Int64]:
    """Events each impression adds, and per impression the index of the one that opens its unbroken stretch."""
    new_user = np.diff(user, prepend=-1) != 0
    before = np.where(new_user, start, np.concatenate([visible[:1], visible[:-1]]))
    gap = visible - before
    opening = new_user | (gap > reach)
    opens = np.maximum.accumulate(np.where(opening, np.arange(len(user)), 0))
    return np.minimum(gap, reach), opens


def _whole(cuts: Int64, opens: Int64, visible: Int64, start: Int64, reach: int) -> Int64:
    """Moves a cut back to where its stretch opens if the part before it is no longer than the context it saves."""
    inside = np.minimum(cuts, len(opens) - 1)
    opening = opens[inside]
    begin = np.maximum(start[opening], visible[opening] - reach)
    before = visible[inside] - begin + (inside - opening)
    return np.where((cuts < len(opens)) & (before <= reach), opening, cuts)


def _at_least_one(cuts: Int64, num_impressions: int) -> Int64:
    """Bounds in which every batch has an impression. A batch that is pushed on holds one alone, so budgets hold."""
    order = np.arange(len(cuts))
    cuts = order + np.maximum.accumulate(cuts - order)
    cuts = np.minimum(cuts, num_impressions - (len(cuts) - order))
    return np.append(cuts, num_impressions)


def pieces_of(found: Impressions, chosen: Int64, reach: int) -> Pieces:
    """The stretches that one batch's impressions (canonical order) need: from `reach` before the first to the last.

    Impressions of one user further than `reach` apart need nothing in between: they become two pieces.
    """
    user, visible, start = found.user[chosen], found.visible[chosen], found.start[chosen]
    _, opens = _fresh(user, visible, start, reach)
    first = np.flatnonzero(opens == np.arange(len(chosen)))
    last = np.append(first[1:], len(chosen)) - 1
    return Pieces(
        user=user[first],
        start=np.maximum(start[first], visible[first] - reach),
        end=visible[last],
        num_impressions=np.diff(offsets_of(last + 1 - first)),
    )
