"""One request cut out of a batch: one user, what one impression sees, and so many candidates like it.

Whoever counts or times "60 candidates of a request" needs a batch that holds that request and nothing else. A log's own
requests have as many candidates as were shown, so the impression is repeated: every candidate has an item row of its
own, as 60 different items would, and the lengths of its lists are the true ones of this impression.

Legend: U users, T events, M item rows, N impressions, C candidates.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ctr_rec.batch.batch import Batch, Ids, Jagged, Level

CANDIDATES = 60
"""Of a request whose cost is stated; as EST's table 3 counts (arXiv 2602.10811)."""


def request_batch(batch: Batch, impression: int, candidates: int = CANDIDATES, reach: int = 0) -> Batch:
    """The request of one impression of a batch, with `candidates` copies of it in the same places of the stream.

    Events that the impression does not see are gone: with channels, those in none of its histories; without, those
    outside its visible prefix, or outside the newest `reach` of it (0: no bound; see `TowerConfig.reach`). `tables` are
    those of the whole batch, since ids index them.
    """
    n = impression
    user = batch.impression_user[n : n + 1]
    kept_T = _seen(batch, n, reach)
    item_M, event_item_T = torch.unique(batch.event_item[kept_T], return_inverse=True)
    same_C = torch.full((candidates,), n, dtype=torch.int64, device=batch.label.device)
    first_C = torch.arange(candidates, device=batch.label.device)
    rows_M = torch.cat([item_M, batch.impression_item[same_C]])
    events = kept_T.shape[0]
    return replace(
        batch,
        user=batch.user[user],
        user_bags={name: _rows_of_jagged(bag, user) for name, bag in batch.user_bags.items()},
        users=_rows_of_level(batch.users, user),
        item=batch.item[rows_M],
        items=_rows_of_level(batch.items, rows_M),
        event_offsets=torch.tensor([0, events], device=kept_T.device),
        event_item=event_item_T,
        event_action=batch.event_action[kept_T],
        event_time=batch.event_time[kept_T],
        event_known_at=batch.event_known_at[kept_T],
        event_end=torch.searchsorted(kept_T, batch.event_end[kept_T]),
        events=_rows_of_level(batch.events, kept_T),
        impression_user=torch.zeros_like(same_C),
        impression_item=item_M.shape[0] + first_C,
        impression_time=batch.impression_time[same_C],
        impression_event=torch.full_like(same_C, -1),
        impression_id=batch.impression_id[same_C],
        visible_end=torch.full_like(same_C, events),
        history_length=batch.history_length[same_C],
        impressions=_rows_of_level(batch.impressions, same_C),
        label=batch.label[same_C],
        weight=batch.weight[same_C],
        histories={name: _history(jagged, same_C, kept_T) for name, jagged in batch.histories.items()},
        global_impressions=candidates,
        global_events=events,
    )


def _seen(batch: Batch, n: int, reach: int) -> Tensor:
    """Positions of the events that an impression reads, ascending. int64 [T]."""
    if batch.histories:
        lists = [jagged.values[jagged.offsets[n] : jagged.offsets[n + 1]] for jagged in batch.histories.values()]
        return torch.unique(torch.cat(lists))
    start, end = int(batch.event_offsets[batch.impression_user[n]]), int(batch.visible_end[n])
    return torch.arange(max(start, end - reach) if reach else start, end, device=batch.label.device)


def _history(jagged: Jagged, same_C: Tensor, kept_T: Tensor) -> Jagged:
    """The impression's list for each copy of it, as positions among the kept events."""
    copies = _rows_of_jagged(jagged, same_C)
    return Jagged(torch.searchsorted(kept_T, copies.values), copies.offsets)


def _rows_of_level(level: Level, rows: Tensor) -> Level:
    def plain(values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value[rows] for name, value in values.items()}

    ids = {name: _rows_of_ids(found, rows) for name, found in level.ids.items()}
    return Level(ids, plain(level.numbers), plain(level.vectors))


def _rows_of_ids(ids: Ids, rows: Tensor) -> Ids:
    if ids.offsets is None:
        return Ids(ids.table, ids.index[rows])
    taken = _rows_of_jagged(Jagged(ids.index, ids.offsets), rows)
    return Ids(ids.table, taken.values, taken.offsets)


def _rows_of_jagged(jagged: Jagged, rows: Tensor) -> Jagged:
    length = jagged.lengths()[rows]
    offsets = torch.cat([length.new_zeros(1), length.cumsum(0)])
    shift = (jagged.offsets[rows] - offsets[:-1]).repeat_interleave(length)
    return Jagged(jagged.values[torch.arange(shift.shape[0], device=shift.device) + shift], offsets)
