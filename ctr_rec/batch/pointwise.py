"""Pointwise batches: independent impressions and the events that their histories read.

Legend: U users, T events of the batch, N impressions.
"""

from __future__ import annotations

import numpy as np

from ctr_rec.batch.buffer import Buffer
from ctr_rec.batch.columns import Int64, Scratch, cut_evenly
from ctr_rec.batch.config import Channel
from ctr_rec.batch.lot import Lot
from ctr_rec.batch.windows import Window, compact, windows_of


def pointwise_lot(
    buffer: Buffer,
    chosen: Int64,
    channels: dict[str, Channel],
    history: int | None,
    scratch: Scratch,
    rank: int,
    world: int,
) -> Lot:
    """This rank's part of one batch. chosen: numbers of its impressions, canonical order. history: see Pointwise."""
    found = buffer.impressions
    start = found.opens(chosen, found.user[chosen], history)
    windows = windows_of(buffer, channels, start, found.visible[chosen])
    pairs = sum((w.high - w.low for w in windows.values()), np.zeros(len(chosen), np.int64))
    bounds = cut_evenly(pairs + 1, world)
    low, high = int(bounds[rank]), int(bounds[rank + 1])
    mine, real = chosen[low:high], low < high
    windows = {name: w.part(low, high) for name, w in windows.items()}
    if not real:
        mine = chosen[:1]
        windows = {name: Window(np.zeros(1, np.int64), np.zeros(1, np.int64)) for name in windows}
    events, histories = compact(buffer, windows, scratch)
    user, num_impressions = _users_of(found.user[mine])
    starts = np.searchsorted(events, buffer.slices.offsets[user])
    own, visible = buffer.slices.own.take(mine), found.visible[mine] if real else start[:1]
    return Lot(
        user_bounds=np.array([0, len(user)]),
        event_bounds=np.array([0, len(events)]),
        impression_bounds=np.array([0, len(mine)]),
        user=user,
        num_impressions=num_impressions,
        event_offsets=np.append(starts, len(events)).astype(np.int64),
        events=events,
        own=own,
        visible=visible,
        impression_event=among(events, own),
        visible_end=np.searchsorted(events, visible),
        histories=histories,
        real=np.array([real]),
        global_impressions=np.array([len(chosen)]),
        global_events=np.array([pairs.sum()]),
    )


def _users_of(user: Int64) -> tuple[Int64, Int64]:
    """Rows of the impressions' users, and how many impressions each has. user: of each impression, ascending."""
    first = np.flatnonzero(np.diff(user, prepend=-1))
    return user[first], np.diff(first, append=len(user))


def among(events: Int64, own: Int64) -> Int64:
    """Position of each own event among the ascending `events`, -1 where it is not there."""
    at = np.searchsorted(events, own)
    inside = at < len(events)
    inside[inside] = events[at[inside]] == own[inside]
    return np.where(inside, at, -1)
