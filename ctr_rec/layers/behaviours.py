"""Behaviours as tokens: the impressions' sequences as jagged rows, each distinct sequence once.

Legend: M distinct items, K distinct event vectors, T packed events, N impressions, S distinct sequences, P tokens of
them, D token width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ctr_rec.batch.batch import Batch, Jagged
from ctr_rec.config import Config
from ctr_rec.layers.history import EventVectors
from ctr_rec.layers.layout import Axes, Layout
from ctr_rec.layers.time import AGES
from ctr_rec.ops.jagged import distinct, gather, segment_of_row, stretches
from ctr_rec.ops.prefix_attention import time_bucket


@dataclass(frozen=True)
class Sequences:
    """Jagged sequences of events and who reads them.

    position_P: positions in the batch's packed events, oldest first within a sequence. offsets_S1: int64. segment_N:
    which sequence each impression reads; None where sequence n is impression n's own.
    """

    position_P: Tensor
    offsets_S1: Tensor
    segment_N: Tensor | None = None

    @property
    def num_sequences(self) -> int:
        return self.offsets_S1.shape[0] - 1

    def per_impression(self, x_SD: Tensor) -> Tensor:
        """Of each impression's sequence, [N, D]."""
        return x_SD if self.segment_N is None else gather(x_SD, self.segment_N)

    def of_impressions(self) -> Sequences:
        """The same with a copy for each impression, as its own sequence."""
        if self.segment_N is None:
            return self
        row_P, offsets_N1 = self.rows_of_impressions()
        return Sequences(self.position_P[row_P], offsets_N1)

    def rows_of_impressions(self) -> tuple[Tensor, Tensor]:
        """Which tokens each impression reads, one impression after another: int64 [pairs], and offsets [N + 1]."""
        length_S, begin_S = self.offsets_S1.diff(), self.offsets_S1[:-1]
        if self.segment_N is None:
            return torch.arange(len(self.position_P), device=begin_S.device), self.offsets_S1
        return stretches(begin_S[self.segment_N], length_S[self.segment_N])


def distinct_sequences(history: Jagged) -> Sequences:
    """Each different sequence of a channel once: impressions of one request share theirs.

    An impression's view of a channel is a stretch of the user's events of that channel, so where it begins and how
    long it is tell it from all others; the empty ones are one sequence.
    """
    length_N = history.lengths()
    if length_N.shape[0] == 0:
        return Sequences(history.values, history.offsets, torch.zeros_like(length_N))
    begin_N = torch.full_like(length_N, -1)
    some_N = length_N > 0
    begin_N[some_N] = history.values[history.offsets[:-1][some_N]]
    key_N = (begin_N + 1) * (int(length_N.max()) + 1) + length_N
    key_S, segment_N = key_N.unique(return_inverse=True)
    first_S = torch.full_like(key_S, length_N.shape[0])
    first_S.scatter_reduce_(0, segment_N, torch.arange(length_N.shape[0], device=key_N.device), "amin")
    row_P, offsets_S1 = stretches(history.offsets[first_S], length_N[first_S])
    return Sequences(history.values[row_P], offsets_S1, segment_N)


class BehaviourSettings(Config):
    """What a behaviour token says beyond its item; the paper's formula has none of it and states nothing either.

    use_action: what the user did. use_order: its place, counted from the sequence's newest event. use_age: log2 of the
    seconds to the sequence's newest event, so that all candidates of a request can share the token; where each
    impression has a sequence of its own, the seconds to its request.
    """

    use_action: bool = True
    use_order: bool = True
    use_age: bool = True
    orders: int = Field(default=128, ge=1, description="places told apart; older ones share the last")
    ages: int = Field(default=AGES, ge=1)


class BehaviourTokens(nn.Module):
    """[P, D]: MLP_gamma of the event's vector, one MLP per sequence (EST, section 4.2), once per distinct vector.

    Order and age join its output as learnt vectors that begin at zero. The MLP has two layers [ours].
    """

    def __init__(self, event_width: int, settings: BehaviourSettings, ticks_per_second: int, width: int) -> None:
        super().__init__()
        self.settings, self.ticks_per_second = settings, ticks_per_second
        self.widths = (event_width, width)
        self.first = nn.Linear(event_width, width)
        self.second = nn.Linear(width, width)
        self.order_OD = nn.Parameter(torch.zeros(settings.orders, width)) if settings.use_order else None
        self.age_AD = nn.Parameter(torch.zeros(settings.ages, width)) if settings.use_age else None

    def forward(self, events: EventVectors, sequences: Sequences, batch: Batch) -> Tensor:
        x_PD = self.without_places(events, sequences.position_P)
        for table_RD, row_P in self.places(sequences, batch):
            x_PD = x_PD + gather(table_RD, row_P)
        return x_PD

    def without_places(self, events: EventVectors, position_P: Tensor) -> Tensor:
        """Tokens of these events that say neither order nor age, [P, D]."""
        row_R, row_P = distinct(events.row_T[position_P], len(events.distinct_KD))
        token_RD = self.second(functional.silu(self.first(gather(events.distinct_KD, row_R))))
        return gather(token_RD, row_P)

    def places(self, sequences: Sequences, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """What each token's order and age say: a table of learnt vectors, and each token's row of it, [P]."""
        found = []
        if self.order_OD is not None:
            found.append((self.order_OD, self._order(sequences)))
        if self.age_AD is not None:
            found.append((self.age_AD, self._age(sequences, batch)))
        return found

    def _order(self, sequences: Sequences) -> Tensor:
        newest_P = sequences.offsets_S1[1:][segment_of_row(sequences.offsets_S1)] - 1
        place_P = torch.arange(newest_P.shape[0], device=newest_P.device)
        return (newest_P - place_P).clamp_(max=self.settings.orders - 1)

    def _age(self, sequences: Sequences, batch: Batch) -> Tensor:
        time_P = batch.event_time[sequences.position_P]
        sequence_P = segment_of_row(sequences.offsets_S1)
        if sequences.segment_N is None:
            now_P = batch.impression_time[sequence_P]
        else:
            now_P = time_P[sequences.offsets_S1[1:][sequence_P] - 1]
        seconds_P = torch.div(now_P - time_P, self.ticks_per_second, rounding_mode="floor")
        return time_bucket(seconds_P, self.settings.ages)

    def axes(self, event: Layout) -> dict[str, Axes]:
        """event: what an event's vector is made of."""
        return {"first.weight": (None, event)}

    def flops(self, rows: int) -> int:
        """rows: distinct event vectors among those of the sequences."""
        event_width, width = self.widths
        return 2 * rows * width * (event_width + width)
