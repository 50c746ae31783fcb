"""Vectors of history events, and the impression's view of its history.

Legend: T packed events, M distinct items, K distinct event vectors, N impressions, A actions, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.fields import join, layout
from ctr_rec.layers.layout import Axes, Layout, size
from ctr_rec.ops.jagged import distinct, gather
from ctr_rec.schema.log import Known
from ctr_rec.schema.table import SparseSpec

ACTION_STD = 0.02


@dataclass(frozen=True)
class EventVectors:
    """Event t has the vector `distinct_KD[row_T[t]]`: events that look the same share one row."""

    distinct_KD: Tensor
    row_T: Tensor

    def per_event(self) -> Tensor:
        """[T, D], one row per event."""
        return gather(self.distinct_KD, self.row_T)


class EventEncoder(nn.Module):
    """event = item vector + W (event features) + action embedding, all of the item vector's width.

    A sum of maps is one map of the concatenation, so nothing is lost, and each part is made once per distinct value:
    the item's once per item, and without event features the whole once per distinct (item, action).

    use_action: off, an event does not say what the user did with it (an ablation). action_std: deviation of the action
    embeddings at the start.
    """

    def __init__(self, spec: SparseSpec, item_width: int, use_action: bool, action_std: float = ACTION_STD) -> None:
        super().__init__()
        self.features = spec.event
        self.num_actions = spec.num_actions
        self.width = item_width
        self._layout = layout(spec, "event", spec.event)
        self._feature_width = size(self._layout)
        self.project = nn.Linear(self._feature_width, item_width, bias=False) if self._feature_width else None
        self.action = nn.Embedding(spec.num_actions, item_width) if use_action else None
        if self.action is not None:
            nn.init.normal_(self.action.weight, std=action_std)

    def forward(self, item_MD: Tensor, embedded: Embedded, batch: Batch) -> EventVectors:
        if self.project is None:
            return self._from_item_and_action(item_MD, batch)
        fields = join(self.features, embedded.events, batch.events, batch.num_events)
        x_TD = gather(item_MD, batch.event_item) + self.project(fields.to(self.project.weight.dtype))
        if self.action is not None:
            x_TD = x_TD + gather(self.action.weight, batch.event_action)
        return EventVectors(x_TD, torch.arange(batch.num_events, device=x_TD.device))

    def of_impressions(self, item_MD: Tensor, embedded: Embedded, batch: Batch) -> Tensor:
        """[N, D]: the impressions' own events as their requests know them, without action and later fields."""
        x_ND = gather(item_MD, batch.impression_item)
        request = [f for f in self.features if f.known is Known.REQUEST]
        if self.project is None or not request:
            return x_ND
        widths = [width for _, width in self._layout]
        maps = self.project.weight.split(widths, dim=1)
        known = [part for f, part in zip(self.features, maps, strict=True) if f.known is Known.REQUEST]
        fields = join(request, embedded.impressions, batch.impressions, batch.num_impressions)
        return x_ND + functional.linear(fields.to(x_ND.dtype), torch.cat(known, dim=1))

    def _from_item_and_action(self, item_MD: Tensor, batch: Batch) -> EventVectors:
        if self.action is None:
            return EventVectors(item_MD, batch.event_item)
        code_K, row_T = distinct(self.looks(batch), item_MD.shape[0] * self.num_actions)
        item_K = torch.div(code_K, self.num_actions, rounding_mode="floor")
        vectors = gather(item_MD, item_K) + gather(self.action.weight, code_K % self.num_actions)
        return EventVectors(vectors, row_T)

    def looks(self, batch: Batch) -> Tensor:
        """What each event looks like, int64 [T]: those with equal codes share a row of `EventVectors`."""
        if self.project is not None:
            return torch.arange(batch.num_events, device=batch.event_item.device)
        if self.action is None:
            return batch.event_item
        return batch.event_item * self.num_actions + batch.event_action

    def axes(self, item: Layout | None) -> dict[str, Axes]:
        """item: what the item vector, and so the event's, is made of; None where its width is the tower's own."""
        found: dict[str, Axes] = {}
        if self.project is not None:
            found["project.weight"] = (item, self._layout)
        if self.action is not None and item is not None:
            found["action.weight"] = (None, item)
        return found

    def flops(self, events: int) -> int:
        return 2 * events * self._feature_width * self.width


def newest_event(batch: Batch) -> Tensor:
    """Position of the newest event each impression sees, -1 where it sees none. int64 [N].

    With channels, the newest over the channels: other events of the batch were fetched for other impressions, and a
    prediction must not depend on its neighbours.
    """
    newest_N = torch.full_like(batch.impression_user, -1)
    if batch.num_events == 0:
        return newest_N
    if not batch.histories:
        start_N = batch.event_offsets[batch.impression_user]
        return torch.where(batch.visible_end > start_N, batch.visible_end - 1, newest_N)
    for history in batch.histories.values():
        if history.values.shape[0] == 0:
            continue
        last_N = history.values[(history.offsets[1:] - 1).clamp(min=0)]
        newest_N = torch.where(history.lengths() > 0, torch.maximum(newest_N, last_N), newest_N)
    return newest_N
