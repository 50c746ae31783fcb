"""MLP baseline: the history as one mean vector per channel, then dense layers (Covington et al. 2016)."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.compressed import CompressedTokens
from ctr_rec.layers.context import ContextSettings
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.layout import Axes, size, within
from ctr_rec.layers.mlp import MLP, MLPSettings
from ctr_rec.layers.pooled import PooledInputs
from ctr_rec.models.tower import Filling, Tower, TowerConfig
from ctr_rec.schema.table import SparseSpec


class MLPConfig(TowerConfig):
    """use_action: events say what the user did with them. context: groups of inputs that can be switched off.

    use_counts: log(1 + n) of the n events that an impression sees in each channel, its `last` ones at most.
    """

    filling: ClassVar[Filling] = Filling.POINTWISE
    mlp: MLPSettings = Field(default_factory=MLPSettings)
    context: ContextSettings = Field(default_factory=ContextSettings)
    use_action: bool = True
    use_counts: bool = False

    def build(self, spec: SparseSpec, channels: tuple[str, ...]) -> MLPTower:
        inputs = PooledInputs(spec, channels, self.context, self.use_action, "MLP")
        return MLPTower(inputs, self.mlp, counted=channels if self.use_counts else ())


class MLPTower(Tower):
    """[N, out_width] from each impression's inputs, pooled ones or tokens side by side. counted: see use_counts."""

    def __init__(
        self, inputs: PooledInputs | CompressedTokens, mlp: MLPSettings, *, counted: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.counted = counted
        self._layout = self.inputs.layout + tuple((f"count/{name}", 1) for name in self.counted)
        self.mlp = MLP(size(self._layout), mlp)
        self.out_width = self.mlp.out_width

    def forward(self, embedded: Embedded, batch: Batch) -> Tensor:
        counts = [batch.histories[name].lengths().float().log1p().unsqueeze(-1) for name in self.counted]
        return self.mlp(torch.cat([self.inputs(embedded, batch).flatten(1), *counts], dim=-1))

    def axes(self) -> dict[str, Axes]:
        return within("inputs", self.inputs.axes()) | within("mlp", self.mlp.axes(self._layout))

    def flops(self, batch: Batch) -> int:
        return self.inputs.flops(batch) + self.mlp.flops(batch.num_impressions)
