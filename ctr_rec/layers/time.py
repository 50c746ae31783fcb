"""What the clock says about a request: hour of day, day of week, and how long the user has been away.

Legend: N impressions, T packed events, D width of one embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.history import newest_event
from ctr_rec.ops.prefix_attention import time_bucket

# Ages are floor(log2(1 + seconds)); 2**31 seconds are 68 years, so by default none is clipped.
AGES = 32
_HOUR, _DAY = 3600, 86400
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; Monday is 0


class RequestTime(nn.Module):
    """Embeds the time of each impression's request (UTC) and its gap to the newest visible event. [N, 3 * dim]."""

    def __init__(self, dim: int, ticks_per_second: int, ages: int = AGES) -> None:
        super().__init__()
        self.ticks_per_second = ticks_per_second
        self.ages = ages
        self.width = 3 * dim
        self.hour = nn.Embedding(24, dim)
        self.weekday = nn.Embedding(7, dim)
        self.gap = nn.Embedding(1 + ages, dim)  # row 0: no visible event
        for table in (self.hour, self.weekday, self.gap):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, batch: Batch) -> Tensor:
        return torch.cat([*self._clock(batch.impression_time), self.gap(self._gap_row(batch))], dim=-1)

    def of_events(self, batch: Batch) -> Tensor:
        """The same of each event's own time, with zeros for the gap. [T, 3 * dim]."""
        hour, weekday = self._clock(batch.event_time)
        return torch.cat([hour, weekday, torch.zeros_like(hour)], dim=-1)

    def _clock(self, ticks: Tensor) -> tuple[Tensor, Tensor]:
        seconds = torch.div(ticks, self.ticks_per_second, rounding_mode="floor")
        hour = torch.div(seconds, _HOUR, rounding_mode="floor") % 24
        weekday = (torch.div(seconds, _DAY, rounding_mode="floor") + _EPOCH_WEEKDAY) % 7
        return self.hour(hour), self.weekday(weekday)

    def _gap_row(self, batch: Batch) -> Tensor:
        newest_N = newest_event(batch)
        if batch.num_events == 0:
            return torch.zeros_like(newest_N)
        ticks = batch.impression_time - batch.event_time[newest_N.clamp(min=0)]
        bucket = time_bucket(torch.div(ticks, self.ticks_per_second, rounding_mode="floor"), self.ages)
        return torch.where(newest_N >= 0, bucket + 1, 0)
