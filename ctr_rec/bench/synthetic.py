"""Batches with chosen counts for benches: one item table of any size, packed users, fixed history length.

Legend: U users, T events, N impressions, R distinct items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ctr_rec.batch.batch import Batch, Ids, Jagged, Level
from ctr_rec.schema.log import Feature, Kind, Side
from ctr_rec.schema.table import SparseSpec, Table

CHANNEL = "last"


@dataclass(frozen=True)
class Shape:
    """impressions: of a batch. users: whom they belong to. distinct: item rows looked up. history: of an impression."""

    impressions: int = 2048
    users: int = 256
    distinct: int = 20_000
    history: int = 50

    @property
    def events_per_user(self) -> int:
        return 2 * self.history


def item_spec(rows: int, dim: int) -> SparseSpec:
    """A log whose items have an id and nothing else."""
    return SparseSpec(
        tables=(Table(name="item", rows=rows, dim=dim, init_std=0.01, bags=False),),
        user=(),
        item=(Feature(name="item", kind=Kind.CATEGORY, side=Side.ITEM, table="item"),),
        event=(),
        counters=(),
        num_actions=2,
        ticks_per_second=1,
    )


def item_batch(shape: Shape, rows: int, seed: int, global_impressions: int | None = None) -> Batch:
    """A pointwise batch whose impressions each read `history` past events of their user.

    The distinct items are drawn evenly from the whole table, which is the hardest case for caches.
    """
    rng = np.random.default_rng(seed)
    per_user = shape.events_per_user
    num_events = shape.users * per_user
    user_N = np.sort(rng.integers(0, shape.users, shape.impressions))
    end_N = user_N * per_user + rng.integers(shape.history, per_user + 1, shape.impressions)
    positions = (end_N[:, None] + np.arange(-shape.history, 0)).reshape(-1)
    distinct_R = np.sort(rng.choice(rows, shape.distinct, replace=False)) if rows < 4 * shape.distinct else None
    if distinct_R is None:
        distinct_R = np.unique(rng.integers(0, rows, 2 * shape.distinct))
        distinct_R = np.sort(rng.permutation(distinct_R)[: shape.distinct])
    time_T = torch.from_numpy(np.tile(np.arange(per_user) * 600, shape.users))
    event_T = torch.arange(num_events)
    return Batch(
        tables={"item": torch.from_numpy(distinct_R)},
        user=torch.arange(shape.users),
        user_bags={},
        users=_level({}),
        item=torch.from_numpy(distinct_R),
        items=_level({"item": Ids("item", torch.arange(shape.distinct))}),
        event_offsets=torch.arange(shape.users + 1) * per_user,
        event_item=torch.from_numpy(rng.integers(0, shape.distinct, num_events)),
        event_action=torch.from_numpy(rng.integers(0, 2, num_events)),
        event_time=time_T,
        event_known_at=time_T,
        event_end=event_T + 1,
        events=_level({}),
        impression_user=torch.from_numpy(user_N),
        impression_item=torch.from_numpy(rng.integers(0, shape.distinct, shape.impressions)),
        impression_time=time_T[torch.from_numpy(end_N - 1)] + 300,
        impression_event=torch.full((shape.impressions,), -1),
        impression_id=torch.arange(shape.impressions),
        visible_end=torch.from_numpy(end_N),
        history_length=torch.full((shape.impressions,), shape.history),
        impressions=_level({}),
        label=torch.from_numpy(rng.integers(0, 2, shape.impressions)).float(),
        weight=torch.ones(shape.impressions),
        histories={CHANNEL: Jagged(torch.from_numpy(positions), torch.arange(shape.impressions + 1) * shape.history)},
        global_impressions=shape.impressions if global_impressions is None else global_impressions,
        global_events=num_events,
    )


def _level(ids: dict[str, Ids]) -> Level:
    numbers: dict[str, Tensor] = {}
    return Level(ids=ids, numbers=numbers, vectors={})
