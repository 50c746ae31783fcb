"""Channels: the events of each behaviour subset, compacted, and what every token sees among them.

    stream      a b c d e        actions 1 2 1 1 2
    channel 1   a c d            before = 0 1 1 2 3 3: how many of its events come before each position of the stream
    y after e   sees a c d       a range of the stream is a range of the channel, so masks are never needed

Compacting costs the sum of the channels' lengths squared; masks over one stream would cost channels times its length
squared (arXiv 2602.01865, section on CamA). Visibility is the project's rule, so a query's range ends at its visible
prefix; windows cut it from below.

Legend: T packed events, C events of a channel, N impressions, Q queries of either kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.packed import Ranges, first_since, whole_seconds
from ctr_rec.models.grab.config import Behaviours, GRABSettings
from ctr_rec.ops.jagged import segment_of_row
from ctr_rec.ops.prefix_attention import plan_blocks


@dataclass(frozen=True)
class Channel:
    """event_C: positions of its events in the stream, None where it holds all. history: None with a single layer."""

    event_C: Tensor | None
    action_C: Tensor
    candidates: Ranges
    history: Ranges | None

    def rows(self, x_TD: Tensor) -> Tensor:
        """Its own rows of a tensor over the stream."""
        return x_TD if self.event_C is None else x_TD[self.event_C]


@dataclass(frozen=True)
class _Queries:
    """user, start and end of the visible prefix, and the time that counts. int64 [Q] each."""

    user: Tensor
    start: Tensor
    end: Tensor
    time: Tensor


def make_channel(
    behaviours: Behaviours, config: GRABSettings, batch: Batch, order_N: Tensor, ticks_per_second: int
) -> Channel:
    """order_N: the order of the impressions among the queries."""
    event_C, before_T1 = _events(behaviours, batch)
    known_at_C = batch.event_known_at if event_C is None else batch.event_known_at[event_C]

    def ranges(queries: _Queries) -> Ranges:
        lo, hi = _visible(queries, behaviours, config.span, before_T1, batch, ticks_per_second)
        plan = plan_blocks(
            lo,
            hi,
            known_at_C.shape[0],
            num_positions=behaviours.window + 1 if config.use_position else 0,
            num_buckets=config.ages if config.use_time else 0,
            query_time_Q=whole_seconds(queries.time, ticks_per_second),
            key_time_T=whole_seconds(known_at_C, ticks_per_second),
            joint=False,
        )
        return Ranges(lo, hi, plan)

    action_C = batch.event_action if event_C is None else batch.event_action[event_C]
    history = ranges(_events_as_queries(batch, event_C)) if config.layers > 1 else None
    return Channel(event_C, action_C, ranges(_candidates(batch, order_N)), history)


def _events(behaviours: Behaviours, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
    """Positions of the channel's events, and how many of them come before each position, int64 [T + 1]."""
    if behaviours.actions is None:
        return None, None
    wanted = torch.tensor(behaviours.actions, device=batch.event_action.device)
    inside_T = torch.isin(batch.event_action, wanted)
    before_T1 = torch.cat([inside_T.new_zeros(1, dtype=torch.int64), inside_T.cumsum(0)])
    return inside_T.nonzero().squeeze(-1), before_T1


def _candidates(batch: Batch, order_N: Tensor) -> _Queries:
    user = batch.impression_user[order_N]
    return _Queries(user, batch.event_offsets[user], batch.visible_end[order_N], batch.impression_time[order_N])


def _events_as_queries(batch: Batch, event_C: Tensor | None) -> _Queries:
    user, end, time = segment_of_row(batch.event_offsets), batch.event_end, batch.event_known_at
    if event_C is not None:
        user, end, time = user[event_C], end[event_C], time[event_C]
    return _Queries(user, batch.event_offsets[user], end, time)


def _visible(
    queries: _Queries,
    behaviours: Behaviours,
    span: int,
    before_T1: Tensor | None,
    batch: Batch,
    ticks_per_second: int,
) -> tuple[Tensor, Tensor]:
    """Ranges of the channel's own events: inside the span and W_t, and of what is left the newest L_w."""
    low, high = torch.maximum(queries.start, queries.end - span), queries.end
    if behaviours.seconds is not None:
        oldest = queries.time - behaviours.seconds * ticks_per_second
        low = torch.minimum(torch.maximum(low, first_since(batch, queries.user, oldest)), high)
    if before_T1 is not None:
        low, high = before_T1[low], before_T1[high]
    return torch.maximum(low, high - behaviours.window), high
