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


def _ends(known_at: Int64, offsets: Int64, user: Int64, query_time: Int64, inclusive: bool) -> Int64:
    """Per query the end of its visible prefix. Times are ranked jointly, so that (user, time) sorts as one integer."""
    if len(query_time) == 0:
        return np.zeros(0, np.int64)
    ranks = np.unique(np.concatenate([known_at, query_time]), return_inverse=True)[1].astype(np.int64)
    base = np.int64(len(ranks) + 1)
    event_user = np.repeat(np.arange(len(offsets) - 1, dtype=np.int64), np.diff(offsets))
    keys = event_user * base + ranks[: len(known_at)]
    queries = user * base + ranks[len(known_at) :]
    return np.searchsorted(keys, queries, side="right" if inclusive else "left").astype(np.int64)


def impression_ends(known_at: Int64, offsets: Int64, user: Int64, request_time: Int64) -> Int64:
    """End (exclusive, in the packed stream) of what each impression sees: known_at < request_time.

    known_at: [T], sorted inside each user. offsets: [U+1]. user: [N], row of the user. request_time: [N].
    """
    return _ends(known_at, offsets, user, request_time, inclusive=False)


def history_ends(known_at: Int64, offsets: Int64) -> Int64:
    """End of what each history event sees: known_at <= its own known_at, so itself and its ties. Shape [T]."""
    user = np.repeat(np.arange(len(offsets) - 1, dtype=np.int64), np.diff(offsets))
    return _ends(known_at, offsets, user, known_at, inclusive=True)
