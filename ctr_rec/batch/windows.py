"""What impressions read of a channel: windows on its events, and the distinct events that a batch's windows need.

Legend: N impressions of a batch, C events of a channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctr_rec.batch.buffer import Buffer
from ctr_rec.batch.columns import Int64, Ragged, Scratch, offsets_of, ranges
from ctr_rec.batch.config import Channel


@dataclass(frozen=True)
class Window:
    """What the impressions of a channel read: [low : high] of its events in the buffer. int64 [N] each."""

    low: Int64
    high: Int64

    def part(self, low: int, high: int) -> Window:
        return Window(self.low[low:high], self.high[low:high])


def windows_of(buffer: Buffer, channels: dict[str, Channel], start: Int64, visible: Int64) -> dict[str, Window]:
    """The last events of every channel between `start` and `visible`."""
    found = {}
    for name, channel in channels.items():
        before = buffer.channels[name].before
        high = before[visible]
        found[name] = Window(np.maximum(before[start], high - channel.last), high)
    return found


def compact(buffer: Buffer, windows: dict[str, Window], scratch: Scratch) -> tuple[Int64, dict[str, Ragged]]:
    """The distinct events that some window reads, and every window as positions among them."""
    used, local = {}, {}
    for name, window in windows.items():
        start, length, local[name] = union(window)
        used[name] = buffer.channels[name].event.take(ranges(start, length))
    if len(used) == 1:
        name = next(iter(used))
        return used[name], local
    size = len(buffer.known_at)
    mark, position = scratch.mark(size), scratch.position(size)
    for events in used.values():
        mark[events] = True
    every = np.flatnonzero(mark)
    position[every] = np.arange(len(every), dtype=np.int64)
    return every, {n: Ragged(position.take(used[n]).take(h.values), h.offsets) for n, h in local.items()}


def union(window: Window) -> tuple[Int64, Int64, Ragged]:
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
