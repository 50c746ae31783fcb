"""Ranker: sparse front -> tower -> head -> logit per impression. The loss is outside."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.embedding import SparseFront
from ctr_rec.layers.layout import Axes, within
from ctr_rec.models.tower import TowerConfig
from ctr_rec.schema.table import SparseSpec


class Ranker(nn.Module):
    """Scores every impression of a batch: logit, float [N].

    front_device: "meta" when `sharding/` will place the tables, a real device for single-device use.
    """

    def __init__(
        self,
        spec: SparseSpec,
        tower: TowerConfig,
        channels: tuple[str, ...] = (),
        front_device: torch.device | str = "meta",
    ) -> None:
        super().__init__()
        self.front = SparseFront(spec, front_device)
        self.tower = tower.build(spec, channels)
        self.head = nn.Linear(self.tower.out_width, 1)

    def forward(self, batch: Batch) -> Tensor:
        return self.head(self.tower(self.front(batch), batch)).squeeze(-1)

    def axes(self) -> dict[str, Axes]:
        """By parameter name: what the axes of those dense parameters are made of whose shape the inputs decide."""
        found = within("tower", self.tower.axes())
        if self.tower.out_layout is not None:
            found["head.weight"] = (None, self.tower.out_layout)
        return found
