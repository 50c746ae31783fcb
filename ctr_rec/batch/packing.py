"""Which impressions share a batch, and which stretch of its user's events each needs.

Legend: N impressions of a buffer in canonical order: by user, end of what they see, own position. B batches, K pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ctr_rec.batch.columns import CACHED, Int64, ranges, union


@dataclass(frozen=True)
class Impressions:
    """The impressions of one split in a buffer, in canonical order.

    visible: int64 [N], end of the visible prefix, in the buffer's events. bounds: int64 [U + 1], first impression of
    each user of the buffer, and the end. start: int64 [U], of the user's events.
    """

    visible: Int64
    bounds: Int64
    start: Int64

    @cached_property
    def user(self) -> Int64:
        """Row of the buffer: int64 [N]. Worked out once, for who asks about most of them."""
        return np.arange(len(self.start)).repeat(np.diff(self.bounds))

    def opens(self, numbers: Int64, user: Int64, history: int | None) -> Int64:
        """Where what they are given begins: `history` events before its end, or with the user. user: of each."""
        start = self.start[user]
        return start if history is None else np.maximum(start, self.visible[numbers] - history)

    def user_of(self, numbers: Int64) -> Int64:
        """The same of some impressions."""
        return np.searchsorted(self.bounds, numbers, side="right") - 1


@dataclass(frozen=True)
class Pieces:
    """Stretches of users' events, [start, end) in the buffer, and the impressions that belong to each. int64 [K].

    first: number of the first impression; the others follow it.
    """

    user: Int64
    start: Int64
    end: Int64
    first: Int64
    num_impressions: Int64

    def take(self, rows: Int64 | slice) -> Pieces:
        return Pieces(self.user[rows], self.start[rows], self.end[rows], self.first[rows], self.num_impressions[rows])

    def impressions(self) -> Int64:
        """Numbers of their impressions, one piece after the other."""
        return ranges(self.first, self.num_impressions)


@dataclass(frozen=True)
class Packs:
    """Packed batches: batch b holds the pieces bounds[b] : bounds[b + 1], in canonical order. bounds: int64 [B + 1].

    shared: a user's events are there once, so an impression may stand among what others of its user are given. False:
    every impression has a copy of its own.
    """

    pieces: Pieces
    bounds: Int64
    shared: bool = True


@dataclass(frozen=True)
class Scattered:
    """Impressions one by one: batch b holds the impressions order[bounds[b] : bounds[b + 1]], in canonical order.

    order: int64 [N]. bounds: int64 [B + 1].
    """

    order: Int64
    bounds: Int64

    def batch(self, index: int) -> Int64:
        """Numbers of the impressions of one batch."""
        return self.order[self.bounds[index] : self.bounds[index + 1]]


def scatter(num_impressions: int, num_batches: int, random: np.random.Generator | None) -> Scattered:
    """Impressions in random order (file order without a generator), cut into nearly equal batches."""
    line = random.permutation(num_impressions) if random is not None else np.arange(num_impressions)
    bounds = np.arange(num_batches + 1) * num_impressions // num_batches
    # NumPy sorts 16-bit keys stably in linear time.
    batch = np.empty(len(line), np.uint16 if num_batches < 2**16 else np.int64)
    batch[line] = np.repeat(np.arange(num_batches), np.diff(bounds))
    return Scattered(np.argsort(batch, kind="stable"), bounds)


def alone(found: Impressions, history: int | None, num_batches: int, random: np.random.Generator | None) -> Packs:
    """Impressions scattered singly, each in a piece of its own with its last `history` visible events (None: all)."""
    scattered = scatter(len(found.visible), num_batches, random)
    number = scattered.order
    user = found.user[number]
    pieces = Pieces(
        user=user,
        start=found.opens(number, user, history),
        end=found.visible[number],
        first=number,
        num_impressions=np.ones_like(number),
    )
    return Packs(pieces, scattered.bounds, shared=False)


def pack(found: Impressions, reach: int, num_batches: int, random: np.random.Generator | None) -> Packs:
    """Users in random order (file order without a generator), cut by tokens.

    On the line of tokens an impression stands for itself and for the events, `reach` at most, that became visible
    since the user's previous one. The line is cut into equal parts; a user that is cut brings `reach` events along.
    A batch therefore has at most ceil(line / num_batches) + reach tokens: within the budget if num_batches is
    line / (budget - reach) or more. The manifest bounds the line: at most the events of the row group, at most
    `reach` per impression, and one per impression.
    """
    n = len(found.visible)
    first = found.bounds[:-1][np.diff(found.bounds) > 0]
    users = random.permutation(len(first)) if random is not None else np.arange(len(first))
    line = _Line.of(found, first, reach)
    before = line.before(first)
    count, total = np.diff(first, append=n)[users], np.diff(before, append=line.ends[-1])[users]
    line_ends = np.cumsum(total)
    cuts = -(-line.ends[-1] * np.arange(num_batches) // num_batches)
    owner = np.searchsorted(line_ends, cuts, side="right")
    inside = cuts - (line_ends - total)[owner] + before[users[owner]]
    at = _whole(line.find(inside), line.opens, found, reach)
    heads = np.cumsum(count) - count
    bounds = _at_least_one(heads[owner] + at - first[users[owner]], n)
    runs = union(heads, bounds[:-1])
    owner = np.searchsorted(heads, runs, side="right") - 1
    begins = first[users[owner]] + runs - heads[owner]
    return _with_pieces(begins, np.searchsorted(bounds, runs, side="right") - 1, num_batches, line.opens, found, reach)


@dataclass(frozen=True)
class _Line:
    """Tokens up to and with each impression: an impression counts 1 and the events it adds, `reach` at most.

    opens: int64 [S], the impressions that open an unbroken stretch, in which nothing is left out. Up to impression n of
    stretch s the line has base[s] + n + visible[n] tokens, up to the end of the stretch ends[s]: no sum over all.
    """

    visible: Int64
    opens: Int64
    base: Int64
    ends: Int64

    @classmethod
    def of(cls, found: Impressions, first: Int64, reach: int) -> _Line:
        """first: each user's first impression."""
        visible = found.visible
        opens = union(first, _leaps(visible, reach))
        before = visible[opens - 1]
        at_user = np.searchsorted(opens, first)
        before[at_user] = found.start[found.user_of(first)]
        own = np.minimum(visible[opens] - before, reach) + 1
        last = np.append(opens[1:], len(visible)) - 1
        ends = np.cumsum(own + last - opens + visible[last] - visible[opens])
        return cls(visible, opens, ends - last - visible[last], ends)

    def before(self, impressions: Int64) -> Int64:
        """Tokens before the given openings of stretches."""
        return np.append(0, self.ends)[np.searchsorted(self.opens, impressions)]

    def find(self, tokens: Int64) -> Int64:
        """The first impression with more tokens up to and with it. tokens: each less than all."""
        stretch = np.searchsorted(self.ends, tokens, side="right")
        wanted = tokens - self.base[stretch]
        low, high = self.opens[stretch], np.append(self.opens[1:], len(self.visible))[stretch] - 1
        while (low < high).any():
            middle = (low + high) // 2
            more = middle + self.visible[middle] > wanted
            low, high = np.where(more, low, middle + 1), np.where(more, middle, high)
        return low


def _leaps(visible: Int64, reach: int) -> Int64:
    """Numbers of impressions that see more than `reach` events beyond the one before. Looked at in cached parts."""
    parts = [visible[at : at + CACHED + 1] for at in range(0, max(len(visible) - 1, 1), CACHED)]
    return np.concatenate([np.flatnonzero(p[1:] - p[:-1] > reach) + 1 + k * CACHED for k, p in enumerate(parts)])


def _whole(cuts: Int64, opens: Int64, found: Impressions, reach: int) -> Int64:
    """Moves a cut back to where its stretch opens if the part before it is no longer than the context it saves."""
    opening = opens[np.searchsorted(opens, cuts, side="right") - 1]
    begin = found.opens(opening, found.user_of(opening), reach)
    before = found.visible[cuts] - begin + (cuts - opening)
    return np.where(before <= reach, opening, cuts)


def _at_least_one(cuts: Int64, num_impressions: int) -> Int64:
    """Bounds in which every batch has an impression. A batch that is pushed on holds one alone, so budgets hold."""
    order = np.arange(len(cuts))
    cuts = order + np.maximum.accumulate(cuts - order)
    cuts = np.minimum(cuts, num_impressions - (len(cuts) - order))
    return np.append(cuts, num_impressions)


def _with_pieces(begins: Int64, batch: Int64, num_batches: int, opens: Int64, found: Impressions, reach: int) -> Packs:
    """Batches in canonical order, with the stretches their impressions need: from `reach` before the first to the last.

    begins: first impression of each run, in canonical order, that one batch holds of one user. batch: of each run.
    Impressions of one user further than `reach` apart need nothing in between: they become two pieces.
    """
    ascending = np.argsort(begins)
    begins, batch = begins[ascending], batch[ascending]
    first = union(begins, opens)
    count = np.diff(first, append=len(found.visible))
    owner = batch[np.searchsorted(begins, first, side="right") - 1]
    by_batch = np.argsort(owner, kind="stable")
    first, count = first[by_batch], count[by_batch]
    user = found.user_of(first)
    pieces = Pieces(
        user=user,
        start=found.opens(first, user, reach),
        end=found.visible[first + count - 1],
        first=first,
        num_impressions=count,
    )
    return Packs(pieces, np.searchsorted(owner[by_batch], np.arange(num_batches + 1)).astype(np.int64))
