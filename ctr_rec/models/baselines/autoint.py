"""AutoInt (Song et al. 2019, arXiv 1810.11921): self-attention among tokens, beside an MLP.

In EST's Table 3 (arXiv 2602.10811) its fields are feature tokens and DIN-compressed behaviour sequences.

Legend: N impressions, L tokens, D token width, H heads, E width of a head.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ctr_rec.batch.batch import Batch
from ctr_rec.errors import ConfigError
from ctr_rec.layers.compressed import CompressedTokens
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.layout import Axes, named, within
from ctr_rec.layers.mlp import MLP, MLPSettings
from ctr_rec.layers.target_attention import TargetAttentionSettings
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.tower import Filling, Tower, TowerConfig
from ctr_rec.schema.table import SparseSpec


class AutoIntConfig(TowerConfig):
    """layers, heads: of the attention, which keeps the tokens' width. attention: of the units that compress sequences.

    use_residual: W_res x beside what was attended to. use_scale: scores divided by sqrt(E), which the paper does not.
    mlp: of the parallel network on the same tokens; null is AutoInt without it.
    """

    filling: ClassVar[Filling] = Filling.POINTWISE
    tokens: TokenSettings = Field(default_factory=TokenSettings)
    attention: TargetAttentionSettings = Field(default_factory=TargetAttentionSettings)
    layers: int = Field(default=2, ge=1)
    heads: int = Field(default=2, ge=1)
    use_residual: bool = True
    use_scale: bool = False
    mlp: MLPSettings | None = Field(default_factory=MLPSettings)

    def build(self, spec: SparseSpec, channels: tuple[str, ...]) -> AutoIntTower:
        return AutoIntTower(spec, self, channels)


class AutoIntTower(Tower):
    """[N, out_width]: all tokens of the last layer side by side, and the parallel network's output."""

    def __init__(self, spec: SparseSpec, config: AutoIntConfig, channels: tuple[str, ...]) -> None:
        super().__init__()
        width = config.tokens.width
        if width % config.heads:
            raise ConfigError(
                f"AutoInt: expected tower.heads to divide tower.tokens.width, got {config.heads} heads at width "
                f"{width}; change one of them"
            )
        self.inputs = CompressedTokens(spec, config.tokens, config.attention, channels, "AutoInt")
        self.layers = nn.ModuleList(InteractingLayer(width, config) for _ in range(config.layers))
        tokens = self.inputs.layout
        self.out_width, self.out_layout = width * len(tokens), named("attended", tokens)
        self.mlp = MLP(self.out_width, config.mlp) if config.mlp is not None else None
        if self.mlp is not None:
            self.out_width += self.mlp.out_width
            self.out_layout += (("mlp", self.mlp.out_width),)

    def forward(self, embedded: Embedded, batch: Batch) -> Tensor:
        tokens_NLD = self.inputs(embedded, batch)
        x_NLD = tokens_NLD
        for layer in self.layers:
            x_NLD = layer(x_NLD)
        attended = x_NLD.flatten(1)
        return attended if self.mlp is None else torch.cat([attended, self.mlp(tokens_NLD.flatten(1))], dim=-1)

    def axes(self) -> dict[str, Axes]:
        found = within("inputs", self.inputs.axes(tokens_meet=True))
        return found if self.mlp is None else found | within("mlp", self.mlp.axes(self.inputs.layout))

    def flops(self, batch: Batch) -> int:
        rows, tokens = batch.num_impressions, len(self.inputs.names)
        total = self.inputs.flops(batch) + (self.mlp.flops(rows) if self.mlp is not None else 0)
        for layer in self.layers:
            assert isinstance(layer, InteractingLayer)
            total += layer.flops(rows, tokens)
        return total


class InteractingLayer(nn.Module):
    """relu(concat_h softmax(q k^T) v + W_res x), no biases: [N, L, D] -> [N, L, D]."""

    def __init__(self, width: int, config: AutoIntConfig) -> None:
        super().__init__()
        self.width, self.heads = width, config.heads
        self.scale = (width // config.heads) ** -0.5 if config.use_scale else 1.0
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.residual = nn.Linear(width, width, bias=False) if config.use_residual else None

    def forward(self, x_NLD: Tensor) -> Tensor:
        parts = self.query_key_value(x_NLD).unflatten(-1, (3, self.heads, -1))
        q_NHLE, k_NHLE, v_NHLE = parts.permute(2, 0, 3, 1, 4)
        weight_NHLL = (self.scale * q_NHLE @ k_NHLE.mT).softmax(dim=-1)
        out_NLD = (weight_NHLL @ v_NHLE).transpose(1, 2).flatten(2)
        return (out_NLD if self.residual is None else out_NLD + self.residual(x_NLD)).relu()

    def flops(self, rows: int, tokens: int) -> int:
        """rows: N. Two products per pair of tokens beside the projections."""
        matrices = 3 if self.residual is None else 4
        return 2 * rows * tokens * self.width * (matrices * self.width + 2 * tokens)
