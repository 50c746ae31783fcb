"""Candidates of a batch, cut out and set against a state: micro-batches that cannot see each other (M-FALCON).

Attention reads the state's keys through ranges, so all candidates of a user share them and nothing is copied.

Legend: U users, T events, M distinct items, N impressions, n chosen impressions.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ctr_rec.batch.batch import Batch, Level
from ctr_rec.batch.visibility import impression_ends
from ctr_rec.errors import ConfigError
from ctr_rec.layers.embedding import Embedded
from ctr_rec.models.ranker import Ranker
from ctr_rec.models.state import HistoryState
from ctr_rec.models.tower import SplitTower

_EMPTY = Level({}, {}, {})


def split_parts(ranker: Ranker) -> tuple[SplitTower, nn.Module]:
    """Tower and head of a ranker that can run split. Raises ConfigError where it cannot."""
    if not isinstance(ranker.tower, SplitTower):
        raise ConfigError(
            f"{type(ranker.tower).__name__} has no state of a history to score against: it reads the history anew for "
            "every impression; a split run needs a tower over whole users, GRAB or HSTU"
        )
    return ranker.tower, ranker.head


def choose(embedded: Embedded, batch: Batch, rows_n: Tensor) -> tuple[Embedded, Batch]:
    """The chosen impressions with their own items and users, and no event. rows_n: int64 [n].

    Only what is embedded is kept: ids of features and table rows have done their work.
    """
    item_m, item_n = torch.unique(batch.impression_item[rows_n], return_inverse=True)
    user_u, user_n = torch.unique(batch.impression_user[rows_n], return_inverse=True)
    nothing = batch.event_time[:0]
    chosen = replace(
        batch,
        tables={},
        user_bags={},
        user=batch.user[user_u],
        users=_rows_of_level(batch.users, user_u),
        item=batch.item[item_m],
        items=_rows_of_level(batch.items, item_m),
        **dict.fromkeys(("event_item", "event_action", "event_time", "event_known_at", "event_end"), nothing),
        event_offsets=torch.zeros(len(user_u) + 1, dtype=torch.int64, device=nothing.device),
        events=_EMPTY,
        impression_user=user_n,
        impression_item=item_n,
        impression_time=batch.impression_time[rows_n],
        impression_event=torch.full_like(rows_n, -1),
        impression_id=batch.impression_id[rows_n],
        visible_end=torch.zeros_like(rows_n),
        history_length=batch.history_length[rows_n],
        impressions=_rows_of_level(batch.impressions, rows_n),
        label=batch.label[rows_n],
        weight=batch.weight[rows_n],
        histories={},
    )
    inputs = Embedded(
        _rows_of(embedded.users, user_u), _rows_of(embedded.items, item_m), {}, _rows_of(embedded.impressions, rows_n)
    )
    return inputs, chosen


def against(state: HistoryState, batch: Batch) -> Batch:
    """The batch with the state's streams in place of its events: what each impression sees is the one rule again.

    state: of the batch's users, in their order. Only offsets and times of its events are there to be read.
    """
    ends = impression_ends(
        *(t.cpu().numpy() for t in (state.known_at, state.offsets, batch.impression_user, batch.impression_time))
    )
    visible_end = torch.from_numpy(ends).to(state.offsets.device)
    hidden = torch.zeros_like(state.time)
    length = visible_end - state.offsets[batch.impression_user] + state.dropped[batch.impression_user]
    return replace(
        batch,
        event_offsets=state.offsets,
        event_item=hidden,
        event_action=hidden,
        event_time=state.time,
        event_known_at=state.known_at,
        event_end=hidden,
        events=_EMPTY,
        visible_end=visible_end,
        history_length=length,
    )


def reaches(state: HistoryState, batch: Batch, looks_back: int) -> bool:
    """Whether the state still holds all that the impressions of `against(state, batch)` read."""
    start_N = state.offsets[batch.impression_user]
    short_N = (batch.visible_end - start_N < looks_back) & (state.dropped[batch.impression_user] > 0)
    return not bool(short_N.any())


def score_candidates(
    tower: SplitTower, head: nn.Module, state: HistoryState, embedded: Embedded, batch: Batch, micro_batch: int
) -> Tensor:
    """Logits [N] of a batch of one user's impressions against that user's state, so many at a time."""
    found = [batch.label.new_zeros(0)]
    for rows_n in torch.arange(batch.num_impressions, device=batch.label.device).split(micro_batch):
        inputs, part = choose(embedded, batch, rows_n)
        found.append(head(tower.score(state, inputs, against(state, part))).squeeze(-1))
    return torch.cat(found[1:] or found)


def _rows_of(values: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in values.items()}


def _rows_of_level(level: Level, rows: Tensor) -> Level:
    return Level({}, _rows_of(level.numbers, rows), _rows_of(level.vectors, rows))
