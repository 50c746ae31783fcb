"""EST over whole users, ours: what an impression reads of its user is one pass that all impressions of the user share.

    stream of one user   a b c d e f        each event once: its token, keys and values, FFN, neighbours
    impression x         [ b c d ]          reads places of the stream, its newest `window` visible events
    impression y             [ d e f ]

Another model than the paper's, in three things. CSA: an event's neighbours are among the newest `window` events that it
sees itself, where the paper has those of the reader's whole sequence, so a token's state in deeper layers also tells of
events before the reader's window. What order and age say is no part of a token, as readers differ in it, but joins its
keys and values. Histories are the newest visible events of any action; channels of the batch are not read. With one
layer, no CSA and neither order nor age, it is EST to the bit of rounding, and always of the same parameters.

What a candidate retrieves is its own, as in the paper, from its newest `lifelong` visible events.

Legend: T packed events, N impressions, P places of the impressions' sequences, R tokens of one kind, D token width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ctr_rec.batch.batch import Batch, Jagged
from ctr_rec.errors import ConfigError
from ctr_rec.layers.behaviours import Sequences
from ctr_rec.layers.history import EventVectors
from ctr_rec.models.est.config import ESTSettings
from ctr_rec.models.est.kind import Streamed
from ctr_rec.models.est.tower import ESTTower
from ctr_rec.models.tower import Filling
from ctr_rec.ops.content_neighbours import Neighbours, window_neighbours
from ctr_rec.ops.jagged import segment_of_row, stretches
from ctr_rec.schema.table import SparseSpec


class PackedESTConfig(ESTSettings):
    """window: how many recent behaviours an impression reads, and how far an event's neighbours lie. lifelong: how many
    are searched for what a candidate retrieves; without `tokens.retrieval` it says nothing.

    The names of channels in `tokens` only tell the two histories apart.
    """

    filling: ClassVar[Filling] = Filling.PACKED
    reads_channels: ClassVar[bool] = False
    window: int = Field(default=50, ge=1)
    lifelong: int = Field(default=5000, ge=1)

    @property
    def reach(self) -> int:
        """Each layer's CSA looks one window further back."""
        recent = self.window * (self.layers + 1 if self.csa else 1)
        return recent if self.tokens.retrieval is None else max(recent, self.lifelong)

    @model_validator(mode="after")
    def _histories_differ(self) -> PackedESTConfig:
        retrieval = self.tokens.retrieval
        if retrieval is not None and retrieval.channel == self.tokens.recent:
            raise ConfigError(
                f"tower.tokens.recent and tower.tokens.retrieval.channel are both {self.tokens.recent!r}, but "
                "tower.window and tower.lifelong make two histories; give one of them another name"
            )
        return self

    def build(self, spec: SparseSpec, channels: tuple[str, ...]) -> PackedESTTower:
        return PackedESTTower(spec, self)


class PackedESTTower(ESTTower):
    """[N, out_width], of packed batches. The tokens of `tokens.recent` are the packed events."""

    def __init__(self, spec: SparseSpec, config: PackedESTConfig) -> None:
        last, retrieval = {config.tokens.recent: config.window}, config.tokens.retrieval
        if retrieval is not None:
            last[retrieval.channel] = config.lifelong
        super().__init__(spec, config, tuple(last))
        self._last, self._recent, self._window = last, config.tokens.recent, config.window

    def _with_histories(self, batch: Batch) -> Batch:
        start_N = batch.event_offsets[batch.impression_user]
        histories = {}
        for name, last in self._last.items():
            begin_N = torch.maximum(start_N, batch.visible_end - last)
            histories[name] = Jagged(*stretches(begin_N, batch.visible_end - begin_N))
        return replace(batch, histories=histories)

    def _tokens_of(self, name: str, events: EventVectors, of: Sequences, batch: Batch) -> Tensor:
        if name != self._recent:
            return super()._tokens_of(name, events, of, batch)
        every_T = torch.arange(batch.num_events, device=batch.event_item.device)
        return self.tokens.maker(name).without_places(events, every_T)

    def _streamed(self, name: str, of: Sequences, batch: Batch) -> Streamed | None:
        if name != self._recent:
            return None
        return Streamed(batch.num_events, tuple(self.tokens.maker(name).places(of, batch)))

    def _neighbours(self, name: str, of: Sequences, batch: Batch) -> Neighbours:
        if name != self._recent:
            return super()._neighbours(name, of, batch)
        low_T, high_T = self._windows(batch)
        return window_neighbours(self.tokens.content(batch), batch.event_item, low_T, high_T, self.config.neighbours)

    def _compared(self, name: str, of: Sequences, batch: Batch) -> Tensor:
        if name != self._recent:
            return super()._compared(name, of, batch)
        low_T, high_T = self._windows(batch)
        return high_T - low_T

    def _windows(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The newest events that each event sees, itself and its ties among them."""
        start_T = batch.event_offsets[segment_of_row(batch.event_offsets)]
        return torch.maximum(start_T, batch.event_end - self._window), batch.event_end
