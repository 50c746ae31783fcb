"""What a tower must offer. Written for one device; it never learns where its tables live."""

from __future__ import annotations

from abc import abstractmethod
from enum import Enum
from typing import ClassVar

from torch import Tensor, nn

from ctr_rec.batch.batch import Batch
from ctr_rec.config import OpenConfig
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.layout import Axes, Layout
from ctr_rec.models.state import HistoryState
from ctr_rec.schema.table import SparseSpec


class Filling(str, Enum):
    """Which batches a tower reads: independent impressions, or whole users packed."""

    POINTWISE = "pointwise"
    PACKED = "packed"


class Tower(nn.Module):
    """From embeddings to one vector per impression, [N, out_width]. Padding-free, and blind to hidden events.

    flops: multiply-adds times two of one forward pass over this batch, from true lengths. axes: of the parameters whose
    shape depends on which inputs there are, so that a trained tower can grow by a feature; one that names none is
    refused when it would have to. out_layout: what its output is made of, where inputs decide its width.
    """

    out_width: int
    out_layout: Layout | None = None

    def axes(self) -> dict[str, Axes]:
        return {}

    @abstractmethod
    def forward(self, embedded: Embedded, batch: Batch) -> Tensor: ...

    @abstractmethod
    def flops(self, batch: Batch) -> int: ...


class SplitTower(Tower):
    """A tower that can run split: histories become a state once, and candidates are scored against it at any time.

    The packed pass is one after the other, so both say the same: of an event's state nothing depends on what comes
    later, and a candidate reads states of events alone, never another candidate.
    """

    def forward(self, embedded: Embedded, batch: Batch) -> Tensor:
        return self.score(self.encode_history(embedded, batch), embedded, batch)

    @property
    @abstractmethod
    def looks_back(self) -> int:
        """How many of its newest visible events a candidate reads the state of; what came before may be dropped."""

    @abstractmethod
    def encode_history(self, embedded: Embedded, batch: Batch) -> HistoryState:
        """State of the batch's events, users one after another. Reads the item and event levels alone."""

    @abstractmethod
    def score(self, state: HistoryState, embedded: Embedded, batch: Batch) -> Tensor:
        """[N, out_width] for the impressions, which need be in no stream, against the state of the batch's events.

        Of these events only offsets and times are read from the batch; actions and features are in the state.
        """

    @abstractmethod
    def state_bytes(self, batch: Batch) -> int:
        """Of the states of the batch's users together: their `looks_back` newest events, in the parameters' dtype."""


class TowerConfig(OpenConfig):
    """Settings of one tower; `build` is the only way to make it. `channels` are read from the batch by name."""

    filling: ClassVar[Filling]
    # A packed tower reads whole users; one that reads channels of them besides says so.
    reads_channels: ClassVar[bool] = True

    @property
    def reach(self) -> int:
        """How many events back an impression's score depends on, where that is bounded by the tower; 0 where not."""
        return 0

    def build(self, spec: SparseSpec, channels: tuple[str, ...]) -> Tower:
        raise AssertionError(f"{type(self).__name__} does not say how to build its tower")
