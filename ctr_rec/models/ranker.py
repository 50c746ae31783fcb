"""Ranker: sparse front -> tower -> head -> logit per impression. The loss is outside.

A second network may stand beside the tower, on the same embeddings and with a head of its own: the network that a team
has today. It takes part in training; what is evaluated, exported and served is the tower.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

import torch
from torch import Tensor, nn

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.embedding import Embedded, SparseFront
from ctr_rec.layers.layout import Axes, within
from ctr_rec.models.tower import Tower, TowerConfig
from ctr_rec.schema.table import SparseSpec

# How the names of the second network's parameters begin; what follows is what a ranker of that network alone has.
BESIDE = "beside."


class Branch(str, Enum):
    """Whose logit is asked for. SEQUENCE: the tower's; BESIDE: the second network's; BOTH: [2, N], in this order."""

    SEQUENCE = "sequence"
    BESIDE = "beside"
    BOTH = "both"


class Beside(nn.Module):
    """The second network: a tower over the ranker's embeddings, and its head. Logit, float [N]."""

    def __init__(self, spec: SparseSpec, tower: TowerConfig, channels: tuple[str, ...]) -> None:
        super().__init__()
        self.tower = tower.build(spec, channels)
        self.head = nn.Linear(self.tower.out_width, 1)

    def forward(self, embedded: Embedded, batch: Batch) -> Tensor:
        return self.head(self.tower(embedded, batch)).squeeze(-1)

    def axes(self) -> dict[str, Axes]:
        return _axes(self.tower)


class Ranker(nn.Module):
    """Scores every impression of a batch: logit, float [N].

    front_device: "meta" when `sharding/` will place the tables, a real device for single-device use. channels: read by
    the tower, unless it reads whole streams, and by the second network. beside: the second network, if there is one.
    mean_gradients: see `SparseFront`.
    """

    def __init__(
        self,
        spec: SparseSpec,
        tower: TowerConfig,
        channels: tuple[str, ...] = (),
        front_device: torch.device | str = "meta",
        beside: TowerConfig | None = None,
        mean_gradients: bool = False,
    ) -> None:
        super().__init__()
        self.front = SparseFront(spec, front_device, mean_gradients)
        self._reads_channels = tower.reads_channels
        self.tower = tower.build(spec, channels if tower.reads_channels else ())
        self.head = nn.Linear(self.tower.out_width, 1)
        # Last, so that the tower begins alike with and without it.
        self.beside = Beside(spec, beside, channels) if beside is not None else None

    def forward(self, batch: Batch, branch: Branch = Branch.SEQUENCE, train_tables: bool = True) -> Tensor:
        """Logits [N], or [2, N] of both branches.

        train_tables: off, embeddings are looked up without a gradient: nothing of a table moves, nor what its optimizer
        remembers. A table cannot be frozen otherwise: its optimizer acts inside the backward pass.
        """
        with torch.set_grad_enabled(train_tables and torch.is_grad_enabled()):
            embedded = self.front(batch)
        if branch is Branch.SEQUENCE:
            return self._sequence(embedded, batch)
        assert self.beside is not None, "the ranker has no second network"
        beside_N = self.beside(embedded, batch)
        return beside_N if branch is Branch.BESIDE else torch.stack([self._sequence(embedded, batch), beside_N])

    def _sequence(self, embedded: Embedded, batch: Batch) -> Tensor:
        # Without the channels that only the second network reads, as in the batches that the tower is served with.
        own = batch if self._reads_channels or not batch.histories else replace(batch, histories={})
        return self.head(self.tower(embedded, own)).squeeze(-1)

    def axes(self) -> dict[str, Axes]:
        """By parameter name: what the axes of those dense parameters are made of whose shape the inputs decide."""
        found = _axes(self.tower)
        return found | within("beside", self.beside.axes()) if self.beside is not None else found


def _axes(tower: Tower) -> dict[str, Axes]:
    found = within("tower", tower.axes())
    if tower.out_layout is not None:
        found["head.weight"] = (None, tower.out_layout)
    return found
