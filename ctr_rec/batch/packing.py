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
    first = np.append(0, np.flatnonzero(found.user[1:] != found.user[:-1]) + 1)
    users = random.permutation(len(first)) if random is not None else np.arange(len(first))
    ends, opens = _tokens(first, found, reach)
    before = np.append(0, ends[first[1:] - 1])
    count, total = np.diff(first, append=n)[users], np.diff(before, append=ends[-1])[users]
    line_ends = np.cumsum(total)
    cuts = -(-ends[-1] * np.arange(num_batches) // num_batches)
    owner = np.searchsorted(line_ends, cuts, side="right")
    inside = cuts - (line_ends - total)[owner] + before[users[owner]]
    at = _whole(np.searchsorted(ends, inside, side="right").astype(np.int64), opens, found, reach)
    heads = np.cumsum(count) - count
    bounds = _at_least_one(heads[owner] + at - first[users[owner]], n)
    runs = np.union1d(heads, bounds[:-1])
    owner = np.searchsorted(heads, runs, side="right") - 1
    begins = first[users[owner]] + runs - heads[owner]
    return _with_pieces(begins, np.searchsorted(bounds, runs, side="right") - 1, bounds, opens, found, reach)


def _tokens(first: Int64, found: Impressions, reach: int) -> tuple[Int64, Int64]:
    """Tokens up to and with each impression, and the impressions that open an unbroken stretch.

    first: each user's first impression. An impression counts 1 and the events it adds.
    """
    visible = found.visible
    added = np.empty_like(visible)
    np.subtract(visible[1:], visible[:-1], out=added[1:])
    added[first] = visible[first] - found.start[first]
    opens = added > reach
    opens[first] = True
    np.minimum(added, reach, out=added)
    added += 1
    return np.cumsum(added, out=added), np.flatnonzero(opens)


def _whole(cuts: Int64, opens: Int64, found: Impressions, reach: int) -> Int64:
    """Moves a cut back to where its stretch opens if the part before it is no longer than the context it saves."""
    opening = opens[np.searchsorted(opens, cuts, side="right") - 1]
    begin = np.maximum(found.start[opening], found.visible[opening] - reach)
    before = found.visible[cuts] - begin + (cuts - opening)
    return np.where(before <= reach, opening, cuts)


def _at_least_one(cuts: Int64, num_impressions: int) -> Int64:
    """Bounds in which every batch has an impression. A batch that is pushed on holds one alone, so budgets hold."""
    order = np.arange(len(cuts))
    cuts = order + np.maximum.accumulate(cuts - order)
    cuts = np.minimum(cuts, num_impressions - (len(cuts) - order))
    return np.append(cuts, num_impressions)


def _with_pieces(begins: Int64, batch: Int64, bounds: Int64, opens: Int64, found: Impressions, reach: int) -> Portions:
    """Batches in canonical order, with the stretches their impressions need: from `reach` before the first to the last.

    begins: first impression of each run, in canonical order, that one batch holds of one user. batch: of each run.
    Impressions of one user further than `reach` apart need nothing in between: they become two pieces.
    """
    ascending = np.argsort(begins)
    begins, batch = begins[ascending], batch[ascending]
    first = np.union1d(begins, opens)
    count = np.diff(first, append=len(found.user))
    owner = batch[np.searchsorted(begins, first, side="right") - 1]
    by_batch = np.argsort(owner, kind="stable")
    first, count = first[by_batch], count[by_batch]
    pieces = Pieces(
        user=found.user[first],
        start=np.maximum(found.start[first], found.visible[first] - reach),
        end=found.visible[first + count - 1],
        num_impressions=count,
    )
    piece_bounds = np.searchsorted(owner[by_batch], np.arange(len(bounds))).astype(np.int64)
    return Portions(ranges(first, count), bounds, pieces, piece_bounds)
