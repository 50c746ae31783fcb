"""Running (count, rate) of a label over the events an impression may see, by its item or by its user.

The rule of visibility is batch/visibility.py's, applied to a stream per item or user: an event counts iff its
`known_at` (time + action_delay) lies strictly before the impression's request time.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ctr_rec.batch.visibility import impression_ends

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]

PRIOR_WEIGHT = 20.0  # pseudo-impressions of the training range's mean in every rate


def running(owner: Int64, known_at: Int64, request_time: Int64, label: npt.NDArray[np.int8]) -> tuple[Int64, Int64]:
    """Visible labelled events and visible positives of each event's owner.

    owner: [E] item or user number. known_at, request_time: [E]. label: [E], -1 where the event has none.
    Returns (count [E], positives [E]).
    """
    labelled = np.flatnonzero(label >= 0)
    order = labelled[np.lexsort((known_at[labelled], owner[labelled]))]
    names, group = np.unique(owner, return_inverse=True)
    offsets = np.searchsorted(owner[order], np.append(names, names[-1:] + 1)) if len(names) else np.zeros(1, np.int64)
    ends = impression_ends(known_at[order], offsets.astype(np.int64), group.astype(np.int64), request_time)
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(label[order], dtype=np.int64)])
    starts = offsets[group] if len(names) else np.zeros(0, np.int64)
    return ends - starts, before[ends] - before[starts]


def rate(count: Int64, positives: Int64, prior: float) -> Float32:
    """(positives + 20 prior) / (count + 20): the label mean, drawn towards the training range's."""
    return ((positives + PRIOR_WEIGHT * prior) / (count + PRIOR_WEIGHT)).astype(np.float32)
