"""DIN (Zhou et al. 2018, arXiv 1706.06978): the candidate weighs each past event of a channel.

Legend: M distinct items, N impressions, P (impression, event) pairs, D item width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ctr_rec.batch.batch import Batch, Jagged
from ctr_rec.errors import ConfigError
from ctr_rec.layers.context import Context, ContextSettings
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.fields import join, layout
from ctr_rec.layers.history import EventEncoder
from ctr_rec.layers.layout import Axes, named, within
from ctr_rec.layers.mlp import MLP, MLPSettings
from ctr_rec.layers.pooled import item_width
from ctr_rec.layers.target_attention import TargetAttention, TargetAttentionSettings
from ctr_rec.layers.time import AGES
from ctr_rec.models.tower import Filling, Tower, TowerConfig
from ctr_rec.ops.jagged import gather, segment_of_row
from ctr_rec.ops.prefix_attention import time_bucket
from ctr_rec.schema.table import SparseSpec


class DINConfig(TowerConfig):
    """use_action, use_age, use_order: what a pair says beyond its two items; all off is the textbook model.

    use_age: floor(log2(1 + seconds)) between request and event, clipped to `ages` codes. use_order: 0 for the channel's
    newest visible event, 1 for the one before, ..., clipped to `orders` codes.
    """

    filling: ClassVar[Filling] = Filling.POINTWISE
    attention: TargetAttentionSettings = Field(default_factory=TargetAttentionSettings)
    mlp: MLPSettings = Field(default_factory=MLPSettings)
    context: ContextSettings = Field(default_factory=ContextSettings)
    use_action: bool = True
    use_age: bool = True
    use_order: bool = True
    orders: int = Field(default=128, ge=1)
    ages: int = Field(default=AGES, ge=1)

    def build(self, spec: SparseSpec, channels: tuple[str, ...]) -> DINTower:
        return DINTower(spec, self, channels)


class DINTower(Tower):
    """[N, out_width]: candidate item, context and one attended history per channel through an MLP."""

    def __init__(self, spec: SparseSpec, config: DINConfig, channels: tuple[str, ...]) -> None:
        super().__init__()
        if not channels:
            raise ConfigError("DIN attends to histories and got no channel; add one to data.channels")
        self.item = spec.item
        self.channels = channels
        self.orders = config.orders
        self.ages = config.ages
        self.ticks_per_second = spec.ticks_per_second
        item_D = item_width(spec, "DIN")
        self._item = layout(spec, "item", spec.item)
        sizes = {"age": config.ages if config.use_age else 0, "order": config.orders if config.use_order else 0}
        self.codes = {name: rows for name, rows in sizes.items() if rows}
        self.events = EventEncoder(spec, item_D, config.use_action)
        self.context = Context(spec, config.context)
        self.attention = nn.ModuleDict({c: TargetAttention(item_D, config.attention, self.codes) for c in channels})
        self.mlp = MLP(item_D * (1 + len(channels)) + self.context.width, config.mlp)
        self.out_width = self.mlp.out_width

    def forward(self, embedded: Embedded, batch: Batch) -> Tensor:
        item_MD = join(self.item, embedded.items, batch.items, batch.item.shape[0])
        target_ND = gather(item_MD, batch.impression_item)
        events = self.events(item_MD, embedded, batch)
        parts = [target_ND, self.context(embedded, batch)]
        for name, attention in self.attention.items():
            history = batch.histories[name]
            position_P = events.row_T[history.values]
            pairs = (position_P, history.offsets, self._pair_codes(history, batch))
            parts.append(attention(target_ND, events.distinct_KD, *pairs))
        return self.mlp(torch.cat(parts, dim=-1))

    def _pair_codes(self, history: Jagged, batch: Batch) -> dict[str, Tensor]:
        if not self.codes:
            return {}
        impression_P = segment_of_row(history.offsets)
        codes = {}
        if "age" in self.codes:
            ticks_P = batch.impression_time[impression_P] - batch.event_time[history.values]
            seconds_P = torch.div(ticks_P, self.ticks_per_second, rounding_mode="floor")
            codes["age"] = time_bucket(seconds_P, self.ages)
        if "order" in self.codes:
            end_P = history.offsets[1:][impression_P]
            order_P = end_P - 1 - torch.arange(history.values.shape[0], device=end_P.device)
            codes["order"] = order_P.clamp_(max=self.orders - 1)
        return codes

    def axes(self) -> dict[str, Axes]:
        found = within("events", self.events.axes(self._item))
        inputs = named("candidate", self._item) + self.context.layout
        for name, attention in self.attention.items():
            assert isinstance(attention, TargetAttention)
            found |= within(f"attention.{name}", attention.axes(self._item))
            inputs += named(f"channel {name}", self._item)
        return found | within("mlp", self.mlp.axes(inputs))

    def flops(self, batch: Batch) -> int:
        total = self.events.flops(batch.num_events) + self.mlp.flops(batch.num_impressions)
        for name, attention in self.attention.items():
            assert isinstance(attention, TargetAttention)
            pairs = batch.histories[name].values.shape[0]
            total += attention.flops(batch.num_impressions, batch.num_events, pairs)
        return total
