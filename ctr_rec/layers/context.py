"""What is known of an impression at its request besides its item: context, profile, counters and time.

Legend: U users, N impressions, T packed events, C context width.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from ctr_rec.batch.batch import Batch
from ctr_rec.config import Config
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.fields import join, layout
from ctr_rec.layers.layout import size
from ctr_rec.layers.time import AGES, RequestTime
from ctr_rec.ops.jagged import gather, segment_of_row
from ctr_rec.schema.table import SparseSpec


class ContextSettings(Config):
    """Each switch off is an ablation: the tower then never sees that group of inputs."""

    use_profile: bool = Field(default=True, description="user features")
    use_request: bool = Field(default=True, description="event features known at request time")
    use_counters: bool = Field(default=True, description="running statistics of item and user")
    use_time: bool = Field(default=True, description="hour, weekday and gap since the newest visible event")
    time_dim: int = Field(default=8, ge=1, description="width of each of the three time embeddings")
    ages: int = Field(default=AGES, ge=1, description="log2 buckets of the gap; the last one holds all longer gaps")


class Context(nn.Module):
    """Side by side: request features, profile, counters, time. [N, width]; never the own action.

    Only the batch's impression level, user level and request time are read, so nothing after the request can enter.
    """

    def __init__(self, spec: SparseSpec, settings: ContextSettings) -> None:
        super().__init__()
        self.request = spec.impression if settings.use_request else ()
        self.counters = spec.counters if settings.use_counters else ()
        self.profile = spec.user if settings.use_profile else ()
        self.time = RequestTime(settings.time_dim, spec.ticks_per_second, settings.ages) if settings.use_time else None
        self.layout = layout(spec, "impression", self.request, self.counters) + layout(spec, "user", self.profile)
        self.layout += (("time", self.time.width),) if self.time is not None else ()
        self.width = size(self.layout)

    def forward(self, embedded: Embedded, batch: Batch) -> Tensor:
        parts = []
        if self.request or self.counters:
            rows = batch.num_impressions
            parts.append(join(self.request, embedded.impressions, batch.impressions, rows, self.counters))
        if self.profile:
            profile_UC = join(self.profile, embedded.users, batch.users, batch.num_users)
            parts.append(gather(profile_UC, batch.impression_user))
        if self.time is not None:
            parts.append(self.time(batch))
        if not parts:
            return torch.zeros(batch.num_impressions, 0, device=batch.label.device)
        return torch.cat(parts, dim=-1)

    def of_events(self, embedded: Embedded, batch: Batch) -> Tensor:
        """The same of past events, as far as a batch knows it: zeros for counters and the gap. [T, width].

        A batch carries counters for impressions alone. The newest event before another may lie before any window, so
        that a gap to it would reach beyond them.
        """
        rows = batch.num_events
        parts = [join(self.request, embedded.events, batch.events, rows)] if self.request else []
        if self.counters:
            parts.append(torch.zeros(rows, len(self.counters), dtype=_dtype(batch), device=batch.label.device))
        if self.profile:
            profile_UC = join(self.profile, embedded.users, batch.users, batch.num_users)
            parts.append(gather(profile_UC, segment_of_row(batch.event_offsets)))
        if self.time is not None:
            parts.append(self.time.of_events(batch))
        return torch.cat(parts, dim=-1) if parts else torch.zeros(rows, 0, device=batch.label.device)


def _dtype(batch: Batch) -> torch.dtype:
    """Of the batch's numbers."""
    return next(iter(batch.impressions.numbers.values())).dtype
