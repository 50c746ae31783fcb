"""DCN-V2 of EST's Table 3 (arXiv 2602.10811): crosses and MLP over feature tokens and DIN-compressed behaviours side by
side."""

from __future__ import annotations

from pydantic import Field

from ctr_rec.layers.compressed import CompressedTokens
from ctr_rec.layers.target_attention import TargetAttentionSettings
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.baselines.dcn_v2 import CrossSettings, DCNv2Tower
from ctr_rec.schema.table import SparseSpec


class TokenDCNv2Config(CrossSettings):
    """attention: of the units that compress behaviour sequences."""

    tokens: TokenSettings = Field(default_factory=TokenSettings)
    attention: TargetAttentionSettings = Field(default_factory=TargetAttentionSettings)

    def build(self, spec: SparseSpec, channels: tuple[str, ...]) -> DCNv2Tower:
        inputs = CompressedTokens(spec, self.tokens, self.attention, channels, "DCN-V2 over tokens")
        return DCNv2Tower(inputs, self)
