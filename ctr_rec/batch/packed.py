"""Packed batches: stretches of users' events with all the impressions that stand in them, or with one that has its
own copy. No loop over users.

Legend: B batches of the lot, K pieces of one rank in them, U users (one per piece), T events, N impressions.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ctr_rec.batch.buffer import Buffer, Selected
from ctr_rec.batch.columns import Int64, Ragged, cut_evenly, offsets_of, ranges
from ctr_rec.batch.config import Channel
from ctr_rec.batch.lot import Lot, per_row
from ctr_rec.batch.packing import Packs, Pieces
from ctr_rec.batch.windows import Window, windows_of


@dataclass(frozen=True)
class Mine:
    """One rank's pieces of B batches; batch b's are bounds[b] : bounds[b + 1]. real: bool [B], False: a stand-in."""

    pieces: Pieces
    bounds: Int64
    real: npt.NDArray[np.bool_]


def packed_lot(
    buffer: Buffer, packs: Packs, batches: slice, channels: dict[str, Channel], rank: int, world: int
) -> Lot:
    """This rank's part of some consecutive batches of a buffer."""
    bounds = packs.bounds[batches.start : batches.stop + 1]
    every = packs.pieces.take(slice(bounds[0], bounds[-1]))
    bounds = bounds - bounds[0]
    mine = cut(every, bounds, buffer, rank, world) if world > 1 else Mine(every, bounds, np.ones(len(bounds) - 1, bool))
    pieces, length, num = mine.pieces, mine.pieces.end - mine.pieces.start, mine.pieces.num_impressions
    offsets, of_impressions = offsets_of(length), offsets_of(num)
    event_bounds, impression_bounds = offsets[mine.bounds], of_impressions[mine.bounds]
    shift = offsets[:-1] - pieces.start - per_row(event_bounds[:-1], mine.bounds)
    chosen, shifts = pieces.impressions(), shift.repeat(num)
    own, visible = buffer.slices.own.take(chosen), buffer.impressions.visible.take(chosen)
    if not mine.real.all():
        visible = np.minimum(visible, pieces.end.repeat(num))  # a stand-in sees nothing
    histories = {}
    if channels:
        windows = windows_of(buffer, channels, pieces.start.repeat(num), visible)
        histories = {name: _inside(window, buffer.channels[name], shifts) for name, window in windows.items()}
    return Lot(
        user_bounds=mine.bounds,
        event_bounds=event_bounds,
        impression_bounds=impression_bounds,
        user=pieces.user,
        num_impressions=num,
        event_offsets=offsets,
        events=ranges(pieces.start, length),
        own=own,
        visible=visible,
        impression_event=among_pieces(mine, shift, own, shifts) if packs.shared else np.full_like(own, -1),
        visible_end=visible + shifts,
        histories=histories,
        real=mine.real,
        global_impressions=np.diff(offsets_of(every.num_impressions)[bounds]),
        global_events=np.diff(offsets_of(every.end - every.start)[bounds]),
    )


def cut(every: Pieces, bounds: Int64, buffer: Buffer, rank: int, world: int) -> Mine:
    """One rank's pieces of each batch, cut by tokens; where it has none, the first one's user without its events."""
    tokens = every.end - every.start + every.num_impressions
    cuts = [cut_evenly(tokens[a:b], world)[rank : rank + 2] for a, b in itertools.pairwise(bounds)]
    low, high = np.array(cuts).T
    real = low < high
    count = np.where(real, high - low, 1)
    pieces = every.take(ranges(bounds[:-1] + np.where(real, low, 0), count))
    mine = Mine(pieces, offsets_of(count), real)
    empty = mine.bounds[:-1][~real]
    start, end, num = pieces.start, pieces.end, pieces.num_impressions
    start[empty] = end[empty] = buffer.slices.offsets[pieces.user[empty]]
    num[empty] = 1
    return mine


def _inside(window: Window, selected: Selected, shifts: Int64) -> Ragged:
    """Channel events as positions in a packed stretch, which holds all events between its ends."""
    length = window.high - window.low
    values = selected.event[ranges(window.low, length)] + shifts.repeat(length)
    return Ragged(values, offsets_of(length))


def among_pieces(mine: Mine, shift: Int64, own: Int64, shifts: Int64) -> Int64:
    """Position of each own event among its batch's events, -1 where it is not there. int64 [N].

    own: positions in the buffer. shift: int64 [K], from the buffer to the batch. shifts: the same of each impression.
    Only what lies beyond the end of its own piece is searched for: a later piece of its user may hold it.
    """
    pieces = mine.pieces
    position = own + shifts
    beyond = np.flatnonzero(own >= pieces.end.repeat(pieces.num_impressions))
    far = own[beyond]
    batch = per_row(np.arange(len(mine.real)), mine.bounds)
    size = int(max(own.max(initial=0), pieces.end.max(initial=0))) + 1
    starts = batch * size + pieces.start  # ascending through the lot
    here = np.searchsorted(offsets_of(pieces.num_impressions), beyond, side="right") - 1
    at = np.searchsorted(starts, batch[here] * size + far, side="right") - 1
    position[beyond] = np.where(far < pieces.end[at], far + shift[at], -1)
    return position
