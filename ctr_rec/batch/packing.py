"""Which impressions share a batch, and which stretch of its user's events each needs.

Legend: N impressions of a buffer in canonical order: by user, end of what they see, own position. B batches, K pieces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctr_rec.batch.columns import Int64, ranges


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
    visible = found.visible.take(line)
    heads = np.cumsum(count[users]) - count[users]
    start = found.start[first[users]]
    fresh, opens = _fresh(heads, visible, start, reach)
    fresh += 1
    ends = np.cumsum(fresh, out=fresh)
    cuts = np.searchsorted(ends, -(-ends[-1] * np.arange(num_batches) // num_batches), side="right").astype(np.int64)
    bounds = _at_least_one(_whole(cuts, opens, visible, found.start.take(line[opens]), reach), n)
    return _with_pieces(line, heads, bounds, found, reach)


def _fresh(heads: Int64, visible: Int64, start: Int64, reach: int) -> tuple[Int64, Int64]:
    """Events each impression adds, and positions of those that open an unbroken stretch.

    heads: positions at which a user or a batch begins. start: of the events of the user at each head.
    """
    gap = np.empty_like(visible)
    np.subtract(visible[1:], visible[:-1], out=gap[1:])
    gap[heads] = visible[heads] - start
    opens = gap > reach
    opens[heads] = True
    return np.minimum(gap, reach, out=gap), np.flatnonzero(opens)


def _whole(cuts: Int64, opens: Int64, visible: Int64, start: Int64, reach: int) -> Int64:
    """Moves a cut back to where its stretch opens if the part before it is no longer than the context it saves.

    opens: positions at which a stretch opens. start: of the events of the user at each of them.
    """
    at = np.searchsorted(opens, cuts, side="right") - 1
    opening = opens[at]
    begin = np.maximum(start[at], visible[opening] - reach)
    before = visible[cuts] - begin + (cuts - opening)
    return np.where(before <= reach, opening, cuts)


def _at_least_one(cuts: Int64, num_impressions: int) -> Int64:
    """Bounds in which every batch has an impression. A batch that is pushed on holds one alone, so budgets hold."""
    order = np.arange(len(cuts))
    cuts = order + np.maximum.accumulate(cuts - order)
    cuts = np.minimum(cuts, num_impressions - (len(cuts) - order))
    return np.append(cuts, num_impressions)


def _with_pieces(line: Int64, heads: Int64, bounds: Int64, found: Impressions, reach: int) -> Portions:
    """Batches in canonical order, with the stretches their impressions need: from `reach` before the first to the last.

    Impressions of one user further than `reach` apart need nothing in between: they become two pieces.
    line[heads] begin users, line[bounds] begin batches: between those, the line is in canonical order already.
    """
    n = len(line)
    runs = np.union1d(heads, bounds[:-1])
    length = np.diff(np.append(runs, n))
    batch = np.searchsorted(bounds, runs, side="right")
    by_batch = np.lexsort((line[runs], batch))
    first, length = line[runs][by_batch], length[by_batch]
    order = ranges(first, length)
    visible = found.visible.take(order)
    _, opens = _fresh(np.cumsum(length) - length, visible, found.start[first], reach)
    last = np.append(opens[1:], n) - 1
    mine = order[opens]
    pieces = Pieces(
        user=found.user[mine],
        start=np.maximum(found.start[mine], visible[opens] - reach),
        end=visible[last],
        num_impressions=last + 1 - opens,
    )
    return Portions(order, bounds, pieces, np.searchsorted(opens, bounds).astype(np.int64))
