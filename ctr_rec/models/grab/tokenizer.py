"""Dense tokenizer: the fields of an event or an impression to one token, e = MLP(v) * sigmoid(W v + b).

The paper names "an MLP and a gate layer" (section 3.1) and gives no form [this one is ours]. v is the concatenation of
fields; its first linear maps are sums of one map per group of fields, so each part is made once per distinct value.

Legend: M distinct items, K distinct event vectors, T events, N impressions, D width, W = hidden width + D.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.context import Context
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.fields import join, layout
from ctr_rec.layers.history import EventEncoder
from ctr_rec.layers.layout import Axes, within
from ctr_rec.layers.pooled import item_width
from ctr_rec.models.grab.config import GRABSettings, Views
from ctr_rec.ops.jagged import gather
from ctr_rec.schema.table import SparseSpec


class GateMLP(nn.Module):
    """The second half of a token's map: from joint first maps [rows, W] (hidden, then gate) to tokens [rows, D]."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.sizes = (hidden, width)
        self.out = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, first_W: Tensor) -> Tensor:
        hidden, gate = first_W.split(self.sizes, dim=-1)
        return self.norm(self.out(functional.gelu(hidden)) * torch.sigmoid(gate))


class Tokenizer(nn.Module):
    """Tokens of events [T, D] and of impressions [N, D].

    Partial: item, event fields, and the action where it has a part in tokens; no static field. Full: item, request
    fields, profile, counters and time. An impression's token never holds its own action. `Views` says who is which.
    """

    def __init__(self, spec: SparseSpec, config: GRABSettings) -> None:
        super().__init__()
        self.views = config.views
        self.item = spec.item
        self.shared = config.shared_tokenizer
        self.item_width = item_width(spec, "GRAB")
        self._item = layout(spec, "item", spec.item)
        self.first = 2 * config.width
        self.context = Context(spec, config.context) if self.views is not Views.PARTIAL else None
        if self.views is Views.FULL and self.context is not None:
            # The full view's map has the request fields already.
            later = tuple(f for f in spec.event if f not in self.context.request)
            spec = spec.model_copy(update={"event": later})
        if self.views is not Views.FULL:
            self.partial_item = nn.Linear(self.item_width, self.first)
            self.partial = GateMLP(config.width, config.width)
        self.events = EventEncoder(spec, self.first, config.token_says_action, config.action_std)
        self.full_context = None
        if self.context is not None:
            self.full_context = nn.Linear(self.context.width, self.first, bias=False) if self.context.width else None
        if self.context is not None and not config.shared_tokenizer:
            self.full_item = nn.Linear(self.item_width, self.first)
            self.full = GateMLP(config.width, config.width)

    def partial_tokens(self, embedded: Embedded, batch: Batch) -> Tensor:
        """[T, D], one per event; its full view with the action where keys are full."""
        item_MI = self._items(embedded, batch)
        if self.views is Views.FULL:
            return self._full_events(self.full_item(item_MI), embedded, batch)
        events = self.events(self.partial_item(item_MI), embedded, batch)
        return gather(self.partial(events.distinct_KD), events.row_T)

    def full_tokens(self, embedded: Embedded, batch: Batch) -> Tensor:
        """[N, D], one per impression; its partial view without an action where queries are partial."""
        item_MI = self._items(embedded, batch)
        if self.views is Views.PARTIAL:
            return self.partial(self.events.of_impressions(self.partial_item(item_MI), embedded, batch))
        shared = self.shared
        first_NW = gather((self.partial_item if shared else self.full_item)(item_MI), batch.impression_item)
        if self.full_context is not None and self.context is not None:
            first_NW = first_NW + self.full_context(self.context(embedded, batch))
        return (self.partial if shared else self.full)(first_NW)

    def _full_events(self, item_MW: Tensor, embedded: Embedded, batch: Batch) -> Tensor:
        first_TW = self.events(item_MW, embedded, batch).per_event()
        if self.full_context is not None and self.context is not None:
            first_TW = first_TW + self.full_context(self.context.of_events(embedded, batch))
        return self.full(first_TW)

    def _items(self, embedded: Embedded, batch: Batch) -> Tensor:
        return join(self.item, embedded.items, batch.items, batch.item.shape[0])

    def axes(self) -> dict[str, Axes]:
        items = [name for name in ("partial_item", "full_item") if hasattr(self, name)]
        found: dict[str, Axes] = {f"{name}.weight": (None, self._item) for name in items}
        found |= within("events", self.events.axes(None))
        if self.full_context is not None and self.context is not None:
            found["full_context.weight"] = (None, self.context.layout)
        return found

    def flops(self, batch: Batch) -> int:
        """Partial tokens are counted once per event, as without sharing."""
        width = self.first // 2
        events, impressions = batch.num_events, batch.num_impressions
        maps = 2 if self.views is Views.BOTH else 1
        items = maps * batch.item.shape[0] * 2 * self.item_width * self.first
        with_context = impressions + (events if self.views is Views.FULL else 0)
        context = 2 * with_context * self.context.width * self.first if self.context is not None else 0
        with_fields = events + (impressions if self.views is Views.PARTIAL else 0)
        return items + self.events.flops(with_fields) + context + 2 * (events + impressions) * width * width
