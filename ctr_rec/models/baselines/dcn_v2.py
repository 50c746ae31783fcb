"""DCN-V2 (Wang et al. 2021, arXiv 2008.13535): explicit crosses beside or before an MLP, on the MLP's inputs."""

from __future__ import annotations

from enum import Enum
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.compressed import CompressedTokens
from ctr_rec.layers.context import ContextSettings
from ctr_rec.layers.cross import CrossNet
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.layout import Axes, named, size, within
from ctr_rec.layers.mlp import MLP, MLPSettings
from ctr_rec.layers.pooled import PooledInputs
from ctr_rec.models.tower import Filling, Tower, TowerConfig
from ctr_rec.schema.table import SparseSpec


class Structure(str, Enum):
    """How crosses and MLP meet (figure 1 of the paper)."""

    PARALLEL = "parallel"
    STACKED = "stacked"


class CrossSettings(TowerConfig):
    """cross_layers: the highest degree of a cross is one more. rank: None for full matrices."""

    filling: ClassVar[Filling] = Filling.POINTWISE
    cross_layers: int = Field(default=3, ge=1)
    rank: int | None = Field(default=None, ge=1)
    structure: Structure = Structure.PARALLEL
    mlp: MLPSettings = Field(default_factory=MLPSettings)


class DCNv2Config(CrossSettings):
    """use_action: events say what the user did with them. context: groups of inputs that can be switched off."""

    context: ContextSettings = Field(default_factory=ContextSettings)
    use_action: bool = True

    def build(self, spec: SparseSpec, channels: tuple[str, ...]) -> DCNv2Tower:
        return DCNv2Tower(PooledInputs(spec, channels, self.context, self.use_action, "DCN-V2"), self)


class DCNv2Tower(Tower):
    """[N, out_width]: crosses and MLP side by side (parallel), or the MLP over the crosses (stacked).

    inputs: pooled ones, or tokens, which are taken side by side.
    """

    def __init__(self, inputs: PooledInputs | CompressedTokens, config: CrossSettings) -> None:
        super().__init__()
        self.structure = config.structure
        self.inputs = inputs
        width = size(inputs.layout)
        self.cross = CrossNet(width, config.cross_layers, config.rank)
        self.mlp = MLP(width, config.mlp)
        beside = self.cross.out_width if config.structure is Structure.PARALLEL else 0
        self.out_width = self.mlp.out_width + beside
        if beside:
            self.out_layout = (*named("cross", self.inputs.layout), ("mlp", self.mlp.out_width))

    def forward(self, embedded: Embedded, batch: Batch) -> Tensor:
        x_ND = self.inputs(embedded, batch).flatten(1)
        crossed_ND = self.cross(x_ND)
        if self.structure is Structure.STACKED:
            return self.mlp(crossed_ND)
        return torch.cat([crossed_ND, self.mlp(x_ND)], dim=-1)

    def axes(self) -> dict[str, Axes]:
        inputs = self.inputs.layout
        parts = {"inputs": self.inputs.axes(), "cross": self.cross.axes(inputs), "mlp": self.mlp.axes(inputs)}
        return {name: axes for path, part in parts.items() for name, axes in within(path, part).items()}

    def flops(self, batch: Batch) -> int:
        rows = batch.num_impressions
        return self.inputs.flops(batch) + self.cross.flops(rows) + self.mlp.flops(rows)
