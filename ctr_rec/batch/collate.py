"""From chosen impressions of a buffer to batches. No loop over users, events or impressions.

Legend: B batches made together, U users, T events, M distinct items, N impressions over all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ctr_rec.batch.batch import Batch, Level
from ctr_rec.batch.buffer import Buffer
from ctr_rec.batch.columns import Column, Int64, Scratch
from ctr_rec.batch.config import DataConfig, Pointwise
from ctr_rec.batch.levels import Levels, profiles
from ctr_rec.batch.lot import Lot, distinct_each, per_row, split, split_offsets, split_ragged
from ctr_rec.batch.packed import packed_lot
from ctr_rec.batch.packing import Packs
from ctr_rec.batch.pointwise import pointwise_lot
from ctr_rec.batch.source import Slices
from ctr_rec.batch.visibility import history_ends
from ctr_rec.schema.table import SparseSpec


class Collator:
    """Makes this rank's part of a buffer's batches. Each thread needs one of its own for its scratch memory."""

    def __init__(
        self, spec: SparseSpec, items: dict[str, Column], num_items: int, config: DataConfig, rank: int, world: int
    ) -> None:
        self._spec = spec
        self._items = items
        self._num_items = num_items
        self._channels = config.channels
        self._history = config.batches.history if isinstance(config.batches, Pointwise) else None
        self._rank = rank
        self._world = world
        self._scratch = Scratch()

    def __call__(self, buffer: Buffer, batches: slice) -> list[Batch]:
        """The rank's part of some consecutive batches of the buffer. They share memory that is nobody else's."""
        if isinstance(buffer.portions, Packs):
            lot = packed_lot(buffer, buffer.portions, batches, self._channels, self._rank, self._world)
            return self.fill(buffer.slices, buffer.known_at, lot)
        chosen = [buffer.portions.batch(k) for k in range(batches.start, batches.stop)]
        lots = (
            pointwise_lot(buffer, c, self._channels, self._history, self._scratch, self._rank, self._world)
            for c in chosen
        )
        return [batch for lot in lots for batch in self.fill(buffer.slices, buffer.known_at, lot)]

    def fill(self, slices: Slices, known_at: Int64, lot: Lot) -> list[Batch]:
        """The batches of a lot. known_at: of every event of the slices, int64."""
        on_both = [slices.item.take(lot.events), slices.item.take(lot.own)]
        bounds = [lot.event_bounds, lot.impression_bounds]
        num_batches = len(lot.real)
        item, item_bounds, (event_item, impression_item) = distinct_each(
            on_both, bounds, num_batches, self._num_items, self._scratch
        )
        levels, tables = self._levels(slices, lot, item, item_bounds)
        bags, users = profiles(self._spec.user, slices.users, lot.user, lot.user_bounds)
        histories = {name: split_ragged(h, lot.impression_bounds) for name, h in lot.histories.items()}
        columns = {
            "user": split(slices.user[lot.user], lot.user_bounds),
            "item": split(item, item_bounds),
            "event_offsets": split_offsets(lot.event_offsets, lot.user_bounds),
            "event_item": split(event_item, lot.event_bounds),
            "impression_item": split(impression_item, lot.impression_bounds),
            **_events(slices, known_at, lot),
            **_impressions(slices, lot),
        }
        return [
            Batch(
                tables=tables[k],
                user_bags=bags[k],
                users=users[k],
                items=levels["items"][k],
                events=levels["events"][k],
                impressions=levels["impressions"][k],
                histories={name: each[k] for name, each in histories.items()},
                global_impressions=int(lot.global_impressions[k]),
                global_events=int(lot.global_events[k]),
                **{name: each[k] for name, each in columns.items()},
            )
            for k in range(len(lot.real))
        ]

    def _levels(
        self, slices: Slices, lot: Lot, item: Int64, item_bounds: Int64
    ) -> tuple[dict[str, list[Level]], list[dict[str, Tensor]]]:
        levels = Levels(self._spec, self._scratch, len(lot.real))
        levels.add("items", self._spec.item, self._items, item, item_bounds)
        levels.add("events", self._spec.event, slices.events, lot.events, lot.event_bounds)
        levels.add("impressions", self._spec.impression, slices.events, lot.own, lot.impression_bounds)
        levels.counters("impressions", slices.counters, lot.own, lot.impression_bounds)
        return levels.finish()


def _events(slices: Slices, known_at: Int64, lot: Lot) -> dict[str, Sequence[Tensor]]:
    """What an event is beside its item and its features."""
    bounds, time = lot.event_bounds, slices.time.take(lot.events)
    known = time if known_at is slices.time else known_at.take(lot.events)
    end = history_ends(known, lot.event_offsets)
    end -= per_row(bounds[:-1], bounds)
    times = split(time, bounds)
    return {
        "event_action": split(slices.action.take(lot.events).astype(np.int64), bounds),
        "event_time": times,
        "event_known_at": times if known is time else split(known, bounds),
        "event_end": split(end, bounds),
    }


def _impressions(slices: Slices, lot: Lot) -> dict[str, Sequence[Tensor]]:
    """What an impression is beside its item and its features."""
    bounds, num_each, start = lot.impression_bounds, lot.num_impressions, slices.offsets[lot.user]
    user = np.arange(len(lot.user)) - per_row(lot.user_bounds[:-1], lot.user_bounds)
    number = lot.own + (slices.first_event[lot.user] - start).repeat(num_each)
    label, weight = slices.label.take(lot.own).astype(np.float32), np.ones(len(lot.own), np.float32)
    if not lot.real.all():
        weight = per_row(lot.real.astype(np.float32), bounds)
        label, number = label * weight, np.where(weight > 0, number, -1)
    columns = {
        "impression_user": user.repeat(num_each),
        "impression_time": slices.request_time.take(lot.own),
        "impression_event": lot.impression_event,
        "impression_id": number,
        "visible_end": lot.visible_end,
        "history_length": lot.visible - start.repeat(num_each),
        "label": label,
        "weight": weight,
    }
    return {name: split(values, bounds) for name, values in columns.items()}
