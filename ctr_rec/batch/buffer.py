"""Row groups held in memory together, with everything that is the same for all their batches.

Legend: T events of the buffer, N impressions of the split in it, C events of a channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctr_rec.batch.columns import Int64, join
from ctr_rec.batch.config import Channel, Packed, Pointwise
from ctr_rec.batch.order import BufferPlan
from ctr_rec.batch.packing import Impressions, Portions, pack, scatter
from ctr_rec.batch.source import Slices
from ctr_rec.batch.visibility import impression_ends
from ctr_rec.errors import DataError
from ctr_rec.schema.log import LogSchema
from ctr_rec.schema.manifest import SPLITS, RowGroup, Split


@dataclass(frozen=True)
class Selected:
    """Events of a channel: positions in the buffer, int64 [C]. before: how many lie before each, int64 [T + 1]."""

    event: Int64
    before: Int64


@dataclass(frozen=True)
class Buffer:
    """known_at: int64 [T]. portions: which impressions each batch holds."""

    slices: Slices
    known_at: Int64
    impressions: Impressions
    channels: dict[str, Selected]
    portions: Portions


def in_split(request_time: Int64, split: Split, name: str) -> np.ndarray:
    """Whether a request time lies in the range of a split. bool [T]."""
    ends = (None, split.train_end, split.valid_end, split.test_end)
    which = SPLITS.index(name)
    low, high = ends[which], ends[which + 1]
    inside = np.ones(len(request_time), bool) if low is None else request_time > low
    return inside if high is None else inside & (request_time <= high)


def make_buffer(
    groups: Sequence[tuple[RowGroup, Slices]],
    plan: BufferPlan,
    schema: LogSchema,
    split: Split,
    split_name: str,
    channels: dict[str, Channel],
    batches: Pointwise | Packed,
    random: np.random.Generator | None,
) -> Buffer:
    """Joins row groups and decides their batches.

    Raises:
        DataError: a row group has another number of impressions than its manifest says.
    """
    chosen = [s.impression & in_split(s.request_time, split, split_name) for _, s in groups]
    for (group, _), found in zip(groups, chosen, strict=True):
        expected = group.impressions[SPLITS.index(split_name)]
        if int(found.sum()) != expected:
            raise DataError(
                f"{group.file}, row group {group.index}: the manifest says {expected} impressions in split "
                f"{split_name!r}, the file has {int(found.sum())}; run `ctr-rec prepare` again"
            )
    slices = join_slices([s for _, s in groups])
    known_at = slices.time + schema.action_delay if schema.action_delay else slices.time
    impressions = _impressions(slices, known_at, np.flatnonzero(np.concatenate(chosen)))
    if isinstance(batches, Packed):
        portions = pack(impressions, batches.reach, plan.num_batches, random)
    else:
        portions = scatter(len(impressions.own), plan.num_batches, random)
    selected = {name: _select(slices, channel) for name, channel in channels.items()}
    return Buffer(slices, known_at, impressions, selected, portions)


def join_slices(parts: Sequence[Slices]) -> Slices:
    """Users of several row groups, one after the other."""
    if len(parts) == 1:
        return parts[0]
    shifts = np.cumsum([0] + [len(p.time) for p in parts])
    offsets = [p.offsets[1:] + shift for p, shift in zip(parts, shifts[:-1], strict=True)]
    return Slices(
        user=np.concatenate([p.user for p in parts]),
        offsets=np.concatenate([np.zeros(1, np.int64), *offsets]),
        time=np.concatenate([p.time for p in parts]),
        request_time=np.concatenate([p.request_time for p in parts]),
        item=np.concatenate([p.item for p in parts]),
        action=np.concatenate([p.action for p in parts]),
        impression=np.concatenate([p.impression for p in parts]),
        label=np.concatenate([p.label for p in parts]),
        event_id=np.concatenate([p.event_id for p in parts]),
        events={name: join([p.events[name] for p in parts]) for name in parts[0].events},
        counters={name: np.concatenate([p.counters[name] for p in parts]) for name in parts[0].counters},
        users={name: join([p.users[name] for p in parts]) for name in parts[0].users},
    )


def _impressions(slices: Slices, known_at: Int64, own: Int64) -> Impressions:
    """In canonical order: user, end of the visible prefix, own position."""
    user = np.searchsorted(slices.offsets, own, side="right") - 1
    visible = impression_ends(known_at, slices.offsets, user, slices.request_time[own])
    if (visible[1:] < visible[:-1]).any():
        order = np.argsort(visible, kind="stable")
        own, user, visible = own[order], user[order], visible[order]
    return Impressions(own, visible, user, slices.offsets[user])


def _select(slices: Slices, channel: Channel) -> Selected:
    if channel.actions is None:
        every = np.arange(len(slices.time) + 1, dtype=np.int64)
        return Selected(every[:-1], every)
    chosen = np.isin(slices.action, np.array(channel.actions, slices.action.dtype))
    before = np.zeros(len(chosen) + 1, np.int64)
    np.cumsum(chosen, out=before[1:])
    return Selected(np.flatnonzero(chosen), before)
