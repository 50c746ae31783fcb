"""What towers over whole users share: the order of their queries, visible ranges with their plan, and clocks.

Legend: N impressions, T packed events, Q queries of either kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctr_rec.batch.batch import Batch
from ctr_rec.ops.jagged import segment_of_row
from ctr_rec.ops.prefix_attention import Pairs


@dataclass(frozen=True)
class Ranges:
    """Visible keys lo:hi of each query, int64 [Q], and their plan, made once per batch for all layers."""

    lo: Tensor
    hi: Tensor
    plan: Pairs


def by_visible_end(batch: Batch) -> Tensor:
    """Impressions by user and by how far they see: neighbours then share keys, which keeps the op's blocks tight."""
    by_end = batch.visible_end.argsort(stable=True)
    return by_end[batch.impression_user[by_end].argsort(stable=True)]


def whole_seconds(ticks: Tensor, ticks_per_second: int) -> Tensor:
    return torch.div(ticks, ticks_per_second, rounding_mode="floor")


def first_since(batch: Batch, user_Q: Tensor, time_Q: Tensor) -> Tensor:
    """Position of the user's first event known at `time_Q` or later, its end where there is none. int64 [Q].

    user_Q: index of the user in the batch. time_Q: in the log's unit.
    """
    event_user = segment_of_row(batch.event_offsets)
    # Ranks of times, so that (user, time) fits one integer whatever the log's unit is.
    times, rank = torch.unique(torch.cat([batch.event_known_at, time_Q]), return_inverse=True)
    base = times.shape[0] + 1
    keys = event_user * base + rank[: batch.num_events]
    return torch.searchsorted(keys, user_Q * base + rank[batch.num_events :])
