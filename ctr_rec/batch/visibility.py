"""The one rule of what a model may see, on two clocks.

`request_time` of an event is the earliest time in its request; it counts when the event is scored. `known_at` is its
own time plus the log's `action_delay`; it counts when the event is history. Event j is visible to impression i iff
known_at_j < request_time_i; among history, j sees k iff known_at_k <= known_at_j. As known_at >= request_time the own
request is hidden, and the rule is transitive. With events sorted by known_at inside a user, what anyone sees is a
prefix, so visibility is one integer: the end of that prefix.
"""

from __future__ import annotations

import itertools

import numpy as np

from ctr_rec.batch.columns import CACHED, Int64


def impression_ends(known_at: Int64, offsets: Int64, user: Int64, request_time: Int64) -> Int64:
    """End (exclusive, in the packed stream) of what each impression sees: known_at < request_time.

    known_at: [T], sorted inside each user. offsets: [U+1]. user: [N], row of the user. request_time: [N].
    """
    if len(request_time) == 0:
        return np.zeros(0, np.int64)
    event_user = np.repeat(np.arange(len(offsets) - 1, dtype=np.int64), np.diff(offsets))
    events, queries, base = _small_times(known_at, request_time, len(offsets) - 1)
    # (user, time) as one integer sorts like the pair.
    keys = event_user * base + events
    return np.searchsorted(keys, user * base + queries, side="left").astype(np.int64)


def stream_ends(known_at: Int64, offsets: Int64, own: Int64, request_time: Int64, out: Int64 | None = None) -> Int64:
    """`impression_ends` for impressions that are events of the stream, faster where a request is one instant.

    own: [N], ascending, position of the impression in the stream. Known at its request time, it sees what lies before
    its ties. request_time: [T], of every event. out: [N], memory for the result.
    """
    ends = np.empty(len(own), np.int64) if out is None else out
    users = np.unique(np.searchsorted(offsets, np.arange(0, len(known_at), CACHED)))
    for low, high in itertools.pairwise([0, *users[1:].tolist(), len(offsets) - 1]):
        begin, end = int(offsets[low]), int(offsets[high])
        here = slice(*np.searchsorted(own, (begin, end)))
        inside = known_at[begin:end], offsets[low : high + 1] - begin, own[here] - begin, request_time[begin:end]
        np.add(_stream_ends(*inside), begin, out=ends[here])
    return ends


def _stream_ends(known_at: Int64, offsets: Int64, own: Int64, request_time: Int64) -> Int64:
    at_once = known_at == request_time
    starts, lengths = _ties(known_at, offsets)
    ends = starts.repeat(lengths).take(own)
    if not at_once.all():
        later = np.flatnonzero(~at_once.take(own))
        event = own[later]
        user = np.searchsorted(offsets, event, side="right") - 1
        ends[later] = impression_ends(known_at, offsets, user, request_time[event])
    return ends


def _ties(known_at: Int64, offsets: Int64) -> tuple[Int64, Int64]:
    """Where events of one user with the same known_at begin, and how many they are: [ties] each, in order."""
    first = np.ones(len(known_at), bool)
    np.not_equal(known_at[1:], known_at[:-1], out=first[1:])
    begins = offsets[:-1]
    first[begins[begins < len(known_at)]] = True
    starts = np.flatnonzero(first)
    lengths = np.empty_like(starts)
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
    lengths[-1:] = len(known_at) - starts[-1:]
    return starts, lengths


def _small_times(known_at: Int64, request_time: Int64, users: int) -> tuple[Int64, Int64, int]:
    """Times as integers below a base that leaves room for the user in 63 bits: their own range, or their ranks."""
    first = min(int(request_time.min()), int(known_at.min()) if len(known_at) else int(request_time.min()))
    last = max(int(request_time.max()), int(known_at.max()) if len(known_at) else int(request_time.max()))
    base = last - first + 1
    if base * max(users, 1) < 2**62:
        return known_at - first, request_time - first, base
    ranks = np.unique(np.concatenate([known_at, request_time]), return_inverse=True)[1].astype(np.int64)
    return ranks[: len(known_at)], ranks[len(known_at) :], len(ranks) + 1


def history_ends(known_at: Int64, offsets: Int64) -> Int64:
    """End of what each history event sees: known_at <= its own known_at, so itself and its ties. Shape [T].

    known_at: [T], sorted inside each user. offsets: [U+1].
    """
    starts, lengths = _ties(known_at, offsets)
    starts += lengths
    return starts.repeat(lengths)
