"""Row groups held in memory together, with everything that is the same for all their batches.

Legend: T events of the buffer, N impressions of the split in it, C events of a channel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ctr_rec.batch.columns import Int64
from ctr_rec.batch.config import Alone, Batches, Channel, Packed
from ctr_rec.batch.memory import Memory
from ctr_rec.batch.packing import Impressions, Packs, Scattered, alone, pack, scatter
from ctr_rec.batch.source import Slices
from ctr_rec.batch.visibility import stream_ends


@dataclass(frozen=True)
class Selected:
    """Events of a channel: positions in the buffer, int64 [C]. before: how many lie before each, int64 [T + 1]."""

    event: Int64
    before: Int64


@dataclass(frozen=True)
class Buffer:
    """slices: its impressions in canonical order. known_at: int64 [T]. portions: what each batch holds."""

    slices: Slices
    known_at: Int64
    impressions: Impressions
    channels: dict[str, Selected]
    portions: Packs | Scattered


def make_buffer(
    slices: Slices,
    action_delay: int,
    channels: dict[str, Channel],
    batches: Batches,
    num_batches: int,
    random: np.random.Generator | None,
    memory: Memory,
) -> Buffer:
    """Finds what each impression sees and decides the batches."""
    known_at = slices.time + action_delay if action_delay else slices.time
    visible = memory.arrays({"visible": (np.int64, len(slices.own))})["visible"]
    stream_ends(known_at, slices.offsets, slices.own, slices.request_time, out=visible)
    bounds = np.searchsorted(slices.own, slices.offsets).astype(np.int64)
    if (visible[1:] < visible[:-1]).any():
        order = np.argsort(visible, kind="stable")  # users stay where they are: what they see does not overlap
        slices, visible = replace(slices, own=slices.own[order]), visible[order]
    found = Impressions(visible, bounds, slices.offsets[:-1])
    portions = _portions(found, batches, num_batches, random)
    selected = {name: _select(slices, channel) for name, channel in channels.items()}
    return Buffer(slices, known_at, found, selected, portions)


def _portions(
    found: Impressions, batches: Batches, num_batches: int, random: np.random.Generator | None
) -> Packs | Scattered:
    if isinstance(batches, Packed):
        return pack(found, batches.reach, num_batches, random)
    if isinstance(batches, Alone):
        return alone(found, batches.history, num_batches, random)
    return scatter(len(found.visible), num_batches, random)


def _select(slices: Slices, channel: Channel) -> Selected:
    if channel.actions is None:
        every = np.arange(len(slices.time) + 1, dtype=np.int64)
        return Selected(every[:-1], every)
    wanted = np.zeros(int(slices.action.max(initial=0)) + 1, bool)
    wanted[[a for a in channel.actions if a < len(wanted)]] = True
    chosen = wanted.take(slices.action)
    before = np.zeros(len(chosen) + 1, np.int64)
    np.cumsum(chosen, out=before[1:])
    return Selected(np.flatnonzero(chosen), before)
