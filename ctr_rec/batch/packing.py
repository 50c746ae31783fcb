"""Which impressions share a batch, and which stretch of its user's events each needs.

Legend: N impressions of a buffer in canonical order: by user, end of what they see, own position. B batches, K pieces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ctr_rec.batch.columns import Int64, ranges

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Impressions:
    """The impressions of one split in a buffer, canonical order; all int64 [N].

    visible: end of the visible prefix, in the buffer's events. user: row of the buffer. start: of the user's events.
    """

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

    def part(self, low: int, high: int) -> Pieces:
        return Pieces(self.user[low:high], self.start[low:high], self.end[low:high], self.num_impressions[low:high])


@dataclass(frozen=True)
class Portions:
    """Batch b holds the impressions order[bounds[b] : bounds[b + 1]], in canonical order.

    order: int64 [N]. bounds: int64 [B + 1]. pieces, piece_bounds: of all batches, where users are packed.
    """

    order: Int64
    bounds: Int64
    pieces: Pieces | None = None
    piece_bounds: Int64 | None = None

    def batch(self, index: int) -> Int64:
        """Numbers of the impressions of one batch."""
        return self.order[self.bounds[index] : self.bounds[index + 1]]

    def pieces_of(self, index: int) -> Pieces:
        """Stretches of one packed batch."""
        assert self.pieces is not None, "pointwise batches have no pieces"
        assert self.piece_bounds is not None
        return self.pieces.part(int(self.piece_bounds[index]), int(self.piece_bounds[index + 1]))


def scatter(num_impressions: int, num_batches: int, random: np.random.Generator | None) -> Portions:
    """Impressions in random order (file order without a generator), cut into nearly equal batches."""
    line = random.permutation(num_impressions) if random is not None else np.arange(num_impressions)
    return _portions(line, np.arange(num_batches + 1) * num_impressions // num_batches)


def _portions(line: Int64, bounds: Int64) -> Portions:
    """line[bounds[b] : bounds[b + 1]] is batch b; inside a batch canonical order is put back."""
    num_batches = len(bounds) - 1
    # NumPy sorts 16-bit keys stably in linear time.
    batch = np.empty(len(line), np.uint16 if num_batches < 2**16 else np.int64)
    batch[line] = np.repeat(np.arange(num_batches), np.diff(bounds))
    return Portions(np.argsort(batch, kind="stable"), bounds)


def pack(found: Impressions, reach: int, num_batches: int, random: np.random.Generator | None) -> Portions:
    """Users in random order (file order without a generator), cut by tokens.

    On the line of tokens an impression stands for itself and for the events, `reach` at most, that became visible
    since the user's previous one. The line is cut into equal parts; a user that is cut brings `reach` events along.
    A batch therefore has at most ceil(line / num_batches) + reach tokens: within the budget if num_batches is
    line / (budget - reach) or more. The manifest bounds the line: at most the events of the row group, at most
    `reach` per impression, and one per impression.
    """
    n = len(found.user)
    first = np.flatnonzero(np.diff(found.user, prepend=-1))
    count = np.diff(np.append(first, n))
    users = random.permutation(len(first)) if random is not None else np.arange(len(first))
    line = ranges(first[users], count[users])
    visible, start = found.visible.take(line), found.start.take(line)
    heads = np.zeros(n, bool)
    heads[np.cumsum(count[users]) - count[users]] = True
    fresh, heads = _fresh(heads, visible, start, reach)
    ends = np.cumsum(fresh + 1)
    cuts = np.searchsorted(ends, -(-ends[-1] * np.arange(num_batches) // num_batches), side="right").astype(np.int64)
    portions = _portions(line, _at_least_one(_whole(cuts, heads, visible, start, reach), n))
    return _with_pieces(portions, found, reach)


def _fresh(heads: Flags, visible: Int64, start: Int64, reach: int) -> tuple[Int64, Flags]:
    """Events each impression adds, and whether it opens an unbroken stretch. heads: whether a user or batch begins."""
    gap = np.empty_like(visible)
    np.subtract(visible[1:], visible[:-1], out=gap[1:])
    at = np.flatnonzero(heads)
    gap[at] = visible[at] - start[at]
    opens = gap > reach
    opens |= heads
    return np.minimum(gap, reach, out=gap), opens


def _whole(cuts: Int64, opens: Flags, visible: Int64, start: Int64, reach: int) -> Int64:
    """Moves a cut back to where its stretch opens if the part before it is no longer than the context it saves."""
    openings = np.flatnonzero(opens)
    opening = openings[np.searchsorted(openings, cuts, side="right") - 1]
    begin = np.maximum(start[opening], visible[opening] - reach)
    before = visible[cuts] - begin + (cuts - opening)
    return np.where(before <= reach, opening, cuts)


def _at_least_one(cuts: Int64, num_impressions: int) -> Int64:
    """Bounds in which every batch has an impression. A batch that is pushed on holds one alone, so budgets hold."""
    order = np.arange(len(cuts))
    cuts = order + np.maximum.accumulate(cuts - order)
    cuts = np.minimum(cuts, num_impressions - (len(cuts) - order))
    return np.append(cuts, num_impressions)


def _with_pieces(portions: Portions, found: Impressions, reach: int) -> Portions:
    """Adds the stretches that each batch's impressions need: from `reach` before the first to the last.

    Impressions of one user further than `reach` apart need nothing in between: they become two pieces.
    """
    order, n = portions.order, len(portions.order)
    user, visible, start = found.user.take(order), found.visible.take(order), found.start.take(order)
    heads = np.ones(n, bool)
    np.not_equal(user[1:], user[:-1], out=heads[1:])
    heads[portions.bounds[:-1]] = True
    _, opens = _fresh(heads, visible, start, reach)
    first = np.flatnonzero(opens)
    last = np.append(first[1:], n) - 1
    pieces = Pieces(
        user=user[first],
        start=np.maximum(start[first], visible[first] - reach),
        end=visible[last],
        num_impressions=last + 1 - first,
    )
    return Portions(order, portions.bounds, pieces, np.searchsorted(first, portions.bounds).astype(np.int64))
