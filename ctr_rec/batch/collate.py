"""From chosen impressions of a buffer to one `Batch`. No loop over users, events or impressions.

Legend: U users, T events of the batch, M distinct items, N impressions, P (impression, event) pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ctr_rec.batch.batch import Batch, Level
from ctr_rec.batch.buffer import Buffer, Selected
from ctr_rec.batch.columns import Column, Int64, Ragged, Scratch, cut_evenly, distinct, offsets_of, ranges
from ctr_rec.batch.config import Channel, DataConfig, Packed
from ctr_rec.batch.levels import Levels, jagged, profiles, tensor
from ctr_rec.batch.packing import Pieces
from ctr_rec.batch.source import Slices
from ctr_rec.batch.visibility import history_ends
from ctr_rec.schema.table import SparseSpec


@dataclass(frozen=True)
class Window:
    """What the impressions of a channel read: before[low : high] of its events in the buffer. int64 [N] each."""

    low: Int64
    high: Int64


@dataclass(frozen=True)
class Part:
    """One rank's part of a global batch.

    chosen: numbers of impressions, canonical order. pieces: their users' stretches.
    events: int64 [T], positions in the buffer. event_offsets: int64 [U + 1]. histories: positions in `events`.
    own, visible: int64 [N], positions in the buffer. impression_event, visible_end: the same as positions in `events`.
    weight: 0 for the stand-in of a rank that has no impression.
    """

    chosen: Int64
    pieces: Pieces
    events: Int64
    event_offsets: Int64
    histories: dict[str, Ragged]
    own: Int64
    visible: Int64
    impression_event: Int64
    visible_end: Int64
    weight: float
    global_impressions: int
    global_events: int


class Collator:
    """Makes this rank's part of a buffer's batches. Each thread needs one of its own for its scratch memory."""

    def __init__(
        self, spec: SparseSpec, items: dict[str, Column], num_items: int, config: DataConfig, rank: int, world: int
    ) -> None:
        self._spec = spec
        self._items = items
        self._num_items = num_items
        self._channels = config.channels
        self._batches = config.batches
        self._rank = rank
        self._world = world
        self._scratch = Scratch()

    def __call__(self, buffer: Buffer, index: int) -> Batch:
        """The rank's part of the buffer's batch `index`."""
        chosen = buffer.portions.batch(index)
        if isinstance(self._batches, Packed):
            part = self._packed(buffer, chosen, buffer.portions.pieces_of(index))
        else:
            part = self._pointwise(buffer, chosen)
        return self._fill(buffer, part)

    def _packed(self, buffer: Buffer, chosen: Int64, every: Pieces) -> Part:
        length = every.end - every.start
        low, high = self._mine(length + every.num_impressions)
        first = offsets_of(every.num_impressions)
        pieces = every.part(low, high)
        total, mine, weight = int(length.sum()), chosen[first[low] : first[high]], 1.0
        if low == high:
            mine, weight = chosen[:1], 0.0
            pieces = _nothing_of(buffer, mine)
        length = pieces.end - pieces.start
        offsets = offsets_of(length)
        own, visible = buffer.slices.own.take(mine), _visible(buffer, mine, weight)
        shift = np.repeat(offsets[:-1] - pieces.start, pieces.num_impressions)
        histories = {}
        if self._channels:
            start = np.repeat(pieces.start, pieces.num_impressions)
            windows = _windows(buffer, self._channels, start, visible)
            histories = {name: self._inside(window, buffer.channels[name], shift) for name, window in windows.items()}
        among, ends = _among_pieces(pieces, offsets, own, shift), visible + shift
        events = ranges(pieces.start, length)
        return Part(mine, pieces, events, offsets, histories, own, visible, among, ends, weight, len(chosen), total)

    def _inside(self, window: Window, selected: Selected, shift: Int64) -> Ragged:
        """Channel events as positions in a packed stretch, which holds all events between its ends."""
        length = window.high - window.low
        values = selected.event[ranges(window.low, length)] + np.repeat(shift, length)
        return Ragged(values, offsets_of(length))

    def _pointwise(self, buffer: Buffer, chosen: Int64) -> Part:
        found = buffer.impressions
        windows = _windows(buffer, self._channels, found.start[chosen], found.visible[chosen])
        pairs = sum((w.high - w.low for w in windows.values()), np.zeros(len(chosen), np.int64))
        low, high = self._mine(pairs + 1)
        mine, weight = chosen[low:high], 1.0
        windows = {name: Window(w.low[low:high], w.high[low:high]) for name, w in windows.items()}
        if low == high:
            mine, weight = chosen[:1], 0.0
            windows = {name: Window(np.zeros(1, np.int64), np.zeros(1, np.int64)) for name in windows}
        events, histories = self._compact(buffer, windows)
        pieces = _users_of(buffer, mine)
        offsets = np.append(np.searchsorted(events, pieces.start), len(events)).astype(np.int64)
        own, visible = buffer.slices.own.take(mine), _visible(buffer, mine, weight)
        among, ends = _among(events, own), np.searchsorted(events, visible)
        total = int(pairs.sum())
        return Part(mine, pieces, events, offsets, histories, own, visible, among, ends, weight, len(chosen), total)

    def _mine(self, tokens: Int64) -> tuple[int, int]:
        bounds = cut_evenly(tokens, self._world)
        return int(bounds[self._rank]), int(bounds[self._rank + 1])

    def _compact(self, buffer: Buffer, windows: dict[str, Window]) -> tuple[Int64, dict[str, Ragged]]:
        """The distinct events that some window reads, and every window as positions among them."""
        used, local = {}, {}
        for name, window in windows.items():
            start, length, local[name] = _union(window)
            used[name] = buffer.channels[name].event.take(ranges(start, length))
        if len(used) == 1:
            name = next(iter(used))
            return used[name], local
        size = len(buffer.known_at)
        mark, position = self._scratch.mark(size), self._scratch.position(size)
        for events in used.values():
            mark[events] = True
        every = np.flatnonzero(mark)
        position[every] = np.arange(len(every), dtype=np.int64)
        return every, {n: Ragged(position.take(used[n]).take(h.values), h.offsets) for n, h in local.items()}

    def _fill(self, buffer: Buffer, part: Part) -> Batch:
        slices, chosen, own = buffer.slices, part.chosen, part.own
        on_both = [slices.item.take(part.events), slices.item.take(own)]
        item, (event_item, impression_item) = distinct(on_both, self._num_items, self._scratch)
        levels, tables = self._levels(slices, part, own, item)
        bags, users = profiles(self._spec.user, slices.users, part.pieces.user)
        time = slices.time.take(part.events)
        known_at = time if buffer.known_at is slices.time else buffer.known_at.take(part.events)
        num_each, users_start = part.pieces.num_impressions, slices.offsets[part.pieces.user]
        id_shift = np.repeat(slices.first_event[part.pieces.user] - users_start, num_each)
        label = slices.label.take(chosen).astype(np.float32)
        real = part.weight > 0
        return Batch(
            tables=tables,
            user=tensor(slices.user[part.pieces.user]),
            user_bags=bags,
            users=users,
            item=tensor(item),
            items=levels["items"],
            event_offsets=tensor(part.event_offsets),
            event_item=tensor(event_item),
            event_action=tensor(slices.action.take(part.events).astype(np.int64)),
            event_time=tensor(time),
            event_known_at=tensor(known_at),
            event_end=tensor(history_ends(known_at, part.event_offsets)),
            events=levels["events"],
            impression_user=tensor(np.repeat(np.arange(len(num_each)), num_each)),
            impression_item=tensor(impression_item),
            impression_time=tensor(slices.request_time.take(chosen)),
            impression_event=tensor(part.impression_event),
            impression_id=tensor(np.add(own, id_shift, out=id_shift) if real else np.full(1, -1)),
            visible_end=tensor(part.visible_end),
            history_length=tensor(part.visible - np.repeat(users_start, num_each)),
            impressions=levels["impressions"],
            label=tensor(label if real else label * np.float32(0)),
            weight=torch.full((len(own),), part.weight),
            histories={name: jagged(history) for name, history in part.histories.items()},
            global_impressions=part.global_impressions,
            global_events=part.global_events,
        )

    def _levels(
        self, slices: Slices, part: Part, own: Int64, item: Int64
    ) -> tuple[dict[str, Level], dict[str, Tensor]]:
        levels = Levels(self._spec, self._scratch)
        levels.add("items", self._spec.item, self._items, item)
        levels.add("events", self._spec.event, slices.events, part.events)
        levels.add("impressions", self._spec.impression, slices.events, own)
        levels.numbers("impressions", slices.counters, part.chosen)
        return levels.finish()


def _visible(buffer: Buffer, chosen: Int64, weight: float) -> Int64:
    """End of each visible prefix in the buffer; a stand-in sees nothing."""
    return (buffer.impressions.visible if weight > 0 else buffer.impressions.start)[chosen]


def _windows(buffer: Buffer, channels: dict[str, Channel], start: Int64, visible: Int64) -> dict[str, Window]:
    """The last events of every channel between `start` and `visible`."""
    found = {}
    for name, channel in channels.items():
        before = buffer.channels[name].before
        high = before[visible]
        found[name] = Window(np.maximum(before[start], high - channel.last), high)
    return found


def _union(window: Window) -> tuple[Int64, Int64, Ragged]:
    """Disjoint ranges (start, length) that cover all windows in order, and the windows as positions in their union.

    In order of their beginnings, what a window shares with all before it is one stretch at its own beginning.
    """
    order = np.argsort(window.low, kind="stable")
    low, high = window.low[order], window.high[order]
    reached = np.maximum.accumulate(np.concatenate([low[:1], high[:-1]]))
    fresh = np.maximum(high - np.maximum(low, reached), 0)
    position = np.empty_like(low)
    position[order] = np.cumsum(fresh) - fresh - np.maximum(reached - low, 0)
    length = window.high - window.low
    return np.maximum(low, reached), fresh, Ragged(ranges(position, length), offsets_of(length))


def _users_of(buffer: Buffer, chosen: Int64) -> Pieces:
    """Users of the chosen impressions, each with all its events."""
    found = buffer.impressions
    user = found.user[chosen]
    first = np.flatnonzero(np.diff(user, prepend=-1))
    rows = user[first]
    offsets = buffer.slices.offsets
    return Pieces(rows, offsets[rows], offsets[rows + 1], np.diff(np.append(first, len(user))))


def _nothing_of(buffer: Buffer, chosen: Int64) -> Pieces:
    """The user of one impression, without its events."""
    found = buffer.impressions
    start = found.start[chosen]
    return Pieces(found.user[chosen], start, start, np.ones(1, np.int64))


def _among(events: Int64, own: Int64) -> Int64:
    """Position of each own event among the ascending `events`, -1 where it is not there."""
    at = np.searchsorted(events, own)
    inside = at < len(events)
    inside[inside] = events[at[inside]] == own[inside]
    return np.where(inside, at, -1)


def _among_pieces(pieces: Pieces, offsets: Int64, own: Int64, shift: Int64) -> Int64:
    """`_among` the events of ascending stretches. shift: from the buffer to the batch, by each impression's stretch.

    Only what lies beyond the end of its own stretch is searched for: a later stretch of its user may hold it.
    """
    position = own + shift
    beyond = np.flatnonzero(own >= np.repeat(pieces.end, pieces.num_impressions))
    far = own[beyond]
    at = np.searchsorted(pieces.start, far, side="right") - 1
    position[beyond] = np.where(far < pieces.end[at], offsets[at] + far - pieces.start[at], -1)
    return position
