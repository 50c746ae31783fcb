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
from ctr_rec.ops.prefix_attention import Pairs


@dataclass(frozen=True)
class Channel:
    """event_C: positions of its events in the stream, None where it holds all. seen: of its events; None when a
    single layer needs it not."""

    event_C: Tensor | None
    action_C: Tensor
    seen: Ranges | None

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


@dataclass(frozen=True)
class Sight:
    """What decides which events of a channel are seen, and how their bias is looked up."""

    behaviours: Behaviours
    config: GRABSettings
    ticks_per_second: int

    def channel(self, batch: Batch) -> Channel:
        """Its events, and what each of them sees."""
        event_C = _events(self.behaviours, batch)
        action_C = batch.event_action if event_C is None else batch.event_action[event_C]
        seen = self._ranges(_events_as_queries(batch, event_C), event_C, batch) if self.config.layers > 1 else None
        return Channel(event_C, action_C, seen)

    def candidates(self, event_C: Tensor | None, batch: Batch, order_N: Tensor) -> Ranges:
        """What the impressions see of the channel's events. order_N: their order among the queries."""
        return self._ranges(_candidates(batch, order_N), event_C, batch)

    def _ranges(self, queries: _Queries, event_C: Tensor | None, batch: Batch) -> Ranges:
        lo, hi = self._visible(queries, event_C, batch)
        known_at_C = batch.event_known_at if event_C is None else batch.event_known_at[event_C]
        plan = Pairs(
            lo_Q=lo,
            hi_Q=hi,
            num_keys=known_at_C.shape[0],
            num_positions=self.behaviours.window + 1 if self.config.use_position else 0,
            num_buckets=self.config.ages if self.config.use_time else 0,
            query_time_Q=whole_seconds(queries.time, self.ticks_per_second),
            key_time_T=whole_seconds(known_at_C, self.ticks_per_second),
        )
        return Ranges(lo, hi, plan)

    def _visible(self, queries: _Queries, event_C: Tensor | None, batch: Batch) -> tuple[Tensor, Tensor]:
        """Ranges of the channel's own events: inside the span and W_t, and of what is left the newest L_w."""
        low, high = torch.maximum(queries.start, queries.end - self.config.span), queries.end
        if self.behaviours.seconds is not None:
            oldest = queries.time - self.behaviours.seconds * self.ticks_per_second
            low = torch.minimum(torch.maximum(low, first_since(batch, queries.user, oldest)), high)
        if event_C is not None:
            before_T1 = _before(event_C, batch.num_events)
            low, high = before_T1[low], before_T1[high]
        return torch.maximum(low, high - self.behaviours.window), high


def _events(behaviours: Behaviours, batch: Batch) -> Tensor | None:
    """Positions of the channel's events, None for all."""
    if behaviours.actions is None:
        return None
    wanted = torch.tensor(behaviours.actions, device=batch.event_action.device)
    return torch.isin(batch.event_action, wanted).nonzero().squeeze(-1)


def _before(event_C: Tensor, num_events: int) -> Tensor:
    """How many of the channel's events come before each position of the stream, int64 [T + 1]."""
    inside_T1 = torch.zeros(num_events + 1, dtype=torch.int64, device=event_C.device)
    inside_T1[event_C + 1] = 1
    return inside_T1.cumsum(0)


def _candidates(batch: Batch, order_N: Tensor) -> _Queries:
    user = batch.impression_user[order_N]
    return _Queries(user, batch.event_offsets[user], batch.visible_end[order_N], batch.impression_time[order_N])


def _events_as_queries(batch: Batch, event_C: Tensor | None) -> _Queries:
    user, end, time = segment_of_row(batch.event_offsets), batch.event_end, batch.event_known_at
    if event_C is not None:
        user, end, time = user[event_C], end[event_C], time[event_C]
    return _Queries(user, batch.event_offsets[user], end, time)
