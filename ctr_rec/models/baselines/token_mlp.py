"""The MLP of EST's Table 3 (arXiv 2602.10811): feature tokens and DIN-compressed behaviours side by side, then dense
layers."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from ctr_rec.layers.compressed import CompressedTokens
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.target_attention import TargetAttentionSettings
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.baselines.mlp import MLPTower
from ctr_rec.models.tower import Filling, TowerConfig
from ctr_rec.schema.table import SparseSpec


class TokenMLPConfig(TowerConfig):
    """attention: of the units that compress behaviour sequences. mlp: over all tokens."""

    filling: ClassVar[Filling] = Filling.POINTWISE
    tokens: TokenSettings = Field(default_factory=TokenSettings)
    attention: TargetAttentionSettings = Field(default_factory=TargetAttentionSettings)
    mlp: MLPSettings = Field(default_factory=MLPSettings)

    def build(self, spec: SparseSpec, channels: tuple[str, ...]) -> MLPTower:
        return MLPTower(CompressedTokens(spec, self.tokens, self.attention, channels, "MLP over tokens"), self.mlp)
