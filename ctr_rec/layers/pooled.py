"""The flat input of models without attention: item, mean history per channel, context. Used by MLP and DCN-V2.

Legend: M distinct items, N impressions, P (impression, event) pairs, D item width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctr_rec.batch.batch import Batch
from ctr_rec.errors import ConfigError
from ctr_rec.layers.context import Context, ContextSettings
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.fields import join, layout, width
from ctr_rec.layers.history import EventEncoder
from ctr_rec.layers.layout import Axes, named, size, within
from ctr_rec.ops.jagged import embedding_bag, gather
from ctr_rec.schema.table import SparseSpec


def item_width(spec: SparseSpec, tower: str) -> int:
    """Width of an item's features. Raises ConfigError when the model reads none."""
    found = width(spec, spec.item)
    if found == 0:
        raise ConfigError(
            f"{tower} needs at least one item feature to tell candidates apart, got none; "
            "declare one in the log's schema or take it out of embedding.exclude"
        )
    return found


class PooledInputs(nn.Module):
    """[N, width]: candidate item, mean of each channel's visible events (zeros for an empty history), context."""

    def __init__(
        self, spec: SparseSpec, channels: tuple[str, ...], context: ContextSettings, use_action: bool, tower: str
    ) -> None:
        super().__init__()
        self.item = spec.item
        self.channels = channels
        self.item_width = item_width(spec, tower)
        self._item = layout(spec, "item", spec.item)
        self.events = EventEncoder(spec, self.item_width, use_action) if channels else None
        self.context = Context(spec, context)
        self.layout = named("candidate", self._item)
        for name in channels:
            self.layout += named(f"channel {name}", self._item)
        self.layout += self.context.layout
        self.width = size(self.layout)

    def forward(self, embedded: Embedded, batch: Batch) -> Tensor:
        item_MD = join(self.item, embedded.items, batch.items, batch.item.shape[0])
        parts = [gather(item_MD, batch.impression_item)]
        if self.events is not None:
            events = self.events(item_MD, embedded, batch)
            for name in self.channels:
                history = batch.histories[name]
                parts.append(embedding_bag(events.distinct_KD, events.row_T[history.values], history.offsets, "mean"))
        parts.append(self.context(embedded, batch))
        return torch.cat(parts, dim=-1)

    def axes(self) -> dict[str, Axes]:
        """Of the parameters that depend on which features there are."""
        return within("events", self.events.axes(self._item)) if self.events is not None else {}

    def flops(self, batch: Batch) -> int:
        """Event encoding plus one addition per pooled number."""
        if self.events is None:
            return 0
        pairs = sum(batch.histories[name].values.shape[0] for name in self.channels)
        return self.events.flops(batch.num_events) + pairs * self.item_width
