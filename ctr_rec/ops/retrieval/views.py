"""Impressions with overlapping histories together: blocks of events, who looks at them, and what is found.

A block is a range of events that no history crosses, as a rule one user's. Its impressions look at all its events in
one matrix, and each hides what its own history does not hold.

Legend: T events, N impressions, P (impression, event) pairs, N1 = N + 1, K found for each; B, Q and U blocks of a
bucket, their impressions and their events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ctr_rec.errors import ConfigError
from ctr_rec.ops.jagged import check_index, check_offsets
from ctr_rec.ops.jagged.buckets import make_plan, pieces
from ctr_rec.ops.jagged.ranking import NOTHING, largest, place_of


class Retrieved(NamedTuple):
    """values int64 [R], positions among the events, oldest first; offsets int64 [N + 1]; score float32 [R]."""

    values: Tensor
    offsets: Tensor
    score: Tensor


class View(NamedTuple):
    """What a piece of a bucket looks at: impressions int64 [B, Q], events int64 [B, U]; not all pairs are visible."""

    impression_BQ: Tensor
    event_BU: Tensor


@dataclass(frozen=True)
class Histories:
    """Positions values_P[offsets_N1[n] : offsets_N1[n + 1]] among T events, of each impression, ascending."""

    values_P: Tensor
    offsets_N1: Tensor
    num_events: int

    @cached_property
    def ranges(self) -> tuple[Tensor, Tensor]:
        """First position of each impression and the one behind its last; 0 and 0 where its history is empty."""
        empty_N = self.offsets_N1.diff() == 0
        if len(self.values_P) == 0:
            return torch.zeros_like(self.offsets_N1[1:]), torch.zeros_like(self.offsets_N1[1:])
        first_N, last_N = self.offsets_N1[:-1].clamp(max=len(self.values_P) - 1), (self.offsets_N1[1:] - 1).clamp(min=0)
        return self.values_P[first_N].masked_fill(empty_N, 0), (self.values_P[last_N] + 1).masked_fill(empty_N, 0)

    def search(self, k: int, rank_of_view: Callable[[View, Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The k best events of each impression: positions int64 [R], oldest first, offsets [N + 1] and ranks [R].

        rank_of_view: ranks of a view given its hidden pairs, bool [B, Q, U]; see `ctr_rec.ops.jagged.ranking`.
        """
        low_N, high_N = self.ranges
        visible = self._in_range if bool((high_N - low_N == self.offsets_N1.diff()).all()) else self._listed
        plan = make_plan(*self._blocks())
        found_RK = low_N.new_full((plan.queries.size + 1, k, 2), NOTHING)
        for bucket in plan.buckets:
            impression_BQ = plan.queries.rows(bucket, bucket.queries).view(-1, bucket.queries)
            event_BU = plan.keys.rows(bucket, bucket.keys).view(-1, bucket.keys)
            padding_B1U = plan.keys.padding(bucket, bucket.keys)[:, None]
            here = found_RK[bucket.query_start :][: impression_BQ.numel()].view(*impression_BQ.shape, k, 2)
            for at in pieces(bucket, len(event_BU)):
                view = View(impression_BQ[:, at], event_BU)
                rank_BQK = largest(rank_of_view(view, ~visible(view) | padding_B1U), k)
                here[:, at, :, 0] = rank_BQK
                here[:, at, :, 1] = place_of(rank_BQK) + event_BU[:, :1, None]
        rank_NK, event_NK = found_RK[plan.queries.back_RH[:, 0]].unbind(2)
        # Found best first, handed on oldest first; what was not found comes last and is left out.
        event_NK, order_NK = event_NK.masked_fill(rank_NK == NOTHING, self.num_events).sort(dim=1)
        is_found_NK = event_NK < self.num_events
        count_N = is_found_NK.sum(dim=1)
        offsets_N1 = torch.cat([count_N.new_zeros(1), count_N.cumsum(0)])
        rank_R = rank_NK.gather(1, order_NK)[is_found_NK]
        return event_NK[is_found_NK], offsets_N1, rank_R

    def _blocks(self) -> tuple[Tensor, Tensor]:
        """Offsets of the blocks and the block of each impression. A block ends where no history lies on both sides."""
        low_N, high_N = self.ranges
        crossing = low_N.new_zeros(self.num_events + 2)
        seeing_N = low_N < high_N
        ones = torch.ones_like(low_N[seeing_N])
        crossing.index_add_(0, low_N[seeing_N] + 1, ones)
        crossing.index_add_(0, high_N[seeing_N], -ones)
        inside = crossing.cumsum(0)[1 : self.num_events] > 0
        ends = [low_N.new_zeros(1), (~inside).nonzero().squeeze(1) + 1, low_N.new_full((1,), self.num_events)]
        starts = torch.cat(ends)
        return starts, (torch.searchsorted(starts, low_N, right=True) - 1).clamp(max=len(starts) - 2)

    def _in_range(self, view: View) -> Tensor:
        """Visible pairs where every history is a range without gaps: bool [B, Q, U]."""
        low_BQ1, high_BQ1 = (x[view.impression_BQ].unsqueeze(2) for x in self.ranges)
        event_B1U = view.event_BU[:, None]
        return (event_B1U >= low_BQ1) & (event_B1U < high_BQ1)

    def _listed(self, view: View) -> Tensor:
        """Visible pairs of any lists: bool [B, Q, U]."""
        impression_R = view.impression_BQ.flatten()
        length_R = self.offsets_N1.diff()[impression_R]
        row_P = torch.repeat_interleave(length_R)
        rank_P = torch.arange(len(row_P), device=row_P.device) - (length_R.cumsum(0) - length_R)[row_P]
        position_P = self.values_P[self.offsets_N1[impression_R][row_P] + rank_P]
        first_R = view.event_BU[:, :1].expand(view.impression_BQ.shape).flatten()
        seen_RU = torch.zeros(len(impression_R), view.event_BU.shape[1], dtype=torch.bool, device=row_P.device)
        seen_RU[row_P, position_P - first_R[row_P]] = True
        return seen_RU.view(*view.impression_BQ.shape, -1)


def check_histories(
    op: str, values_P: Tensor, offsets_N1: Tensor, num_impressions: int, num_events: int, k: int
) -> Histories:
    """Raises ValueError for lists that do not belong to these impressions and events, ConfigError for k below 1."""
    check_index("values_P", values_P, num_events)
    check_offsets(offsets_N1, len(values_P))
    if len(offsets_N1) != num_impressions + 1:
        raise ValueError(
            f"{op}: offsets_N1 must have {num_impressions + 1} entries for {num_impressions} impressions, "
            f"got: {len(offsets_N1)}"
        )
    if k < 1:
        raise ConfigError(f"{op}: k must be 1 or more, got: {k}; switch retrieval off where nothing is wanted")
    values_P, offsets_N1 = values_P.to(torch.int64), offsets_N1.to(torch.int64)
    if values_P.device.type == "cpu" and len(values_P) > 1:
        falls_P = values_P[1:] <= values_P[:-1]
        starts = offsets_N1[(offsets_N1 > 0) & (offsets_N1 < len(values_P))]
        falls_P[starts - 1] = False
        if bool(falls_P.any()):
            at = int(falls_P.nonzero()[0])
            raise ValueError(
                f"{op}: values_P must rise inside each history, oldest first, got: {int(values_P[at])} then "
                f"{int(values_P[at + 1])} at {at}; sort each history and name no event twice"
            )
    return Histories(values_P, offsets_N1, num_events)
