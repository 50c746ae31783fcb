"""The one rule of what a model may see, on two clocks.

`request_time` of an event is the earliest time in its request; it counts when the event is scored. `known_at` is its
own time plus the log's `action_delay`; it counts when the event is history. Event j is visible to impression i iff
known_at_j < request_time_i; among history, j sees k iff known_at_k <= known_at_j. As known_at >= request_time the own
request is hidden, and the rule is transitive. With events sorted by known_at inside a user, what anyone sees is a
prefix, so visibility is one integer: the end of that prefix.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]


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


def stream_ends(known_at: Int64, offsets: Int64, own: Int64, user: Int64, request_time: Int64) -> Int64:
    """`impression_ends` for impressions that are events of the stream, faster where a request is one instant.

    own: [N], position of the impression in the stream. Known at its request time, it sees what lies before its ties.
    """
    at_once = known_at.take(own) == request_time
    ends = _tie_starts(known_at, offsets).take(own)
    if not at_once.all():
        later = np.flatnonzero(~at_once)
        ends[later] = impression_ends(known_at, offsets, user[later], request_time[later])
    return ends


def _tie_starts(known_at: Int64, offsets: Int64) -> Int64:
    """Per event the first of its user's events with the same known_at. Shape [T]."""
    first = np.ones(len(known_at), bool)
    np.not_equal(known_at[1:], known_at[:-1], out=first[1:])
    first[offsets[:-1][np.diff(offsets) > 0]] = True
    if len(known_at) == 0:
        return known_at
    group = first.astype(np.int64)  # NumPy adds up whole numbers twice as fast as flags
    np.cumsum(group, out=group)
    group -= 1
    return np.flatnonzero(first).take(group)


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
    if len(known_at) == 0:
        return np.zeros(0, np.int64)
    last = np.ones(len(known_at), bool)
    np.not_equal(known_at[1:], known_at[:-1], out=last[:-1])
    last[offsets[1:][np.diff(offsets) > 0] - 1] = True
    group = last.astype(np.int64)  # NumPy adds up whole numbers twice as fast as flags
    np.cumsum(group, out=group)
    group -= last
    return (np.flatnonzero(last) + 1).take(group)
