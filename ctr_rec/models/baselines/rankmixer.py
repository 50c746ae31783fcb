"""RankMixer (arXiv 2507.15551): tokens exchange parts of themselves, and each has a feed-forward network of its own.

    token a   a0 a1 a2        a'   a0 b0 c0
    token b   b0 b1 b2   ->   b'   a1 b1 c1      the mixing: no parameters, as many parts as tokens
    token c   c0 c1 c2        c'   a2 b2 c2

In EST's Table 3 (arXiv 2602.10811) there is one token per feature instead of per group of features, and behaviour
sequences are compressed by DIN to a token each; all tokens of the last layer go to the head side by side, where
RankMixer's own paper takes their mean.

[ours] As many parts as tokens means that the number of tokens must divide the width, which numbers of features rarely
do. Here each token's projection, part of RankMixer's tokenizer, widens it to the next multiple; tokens that stand for
nothing would instead have added parameters and arithmetic in proportion to their share.

Legend: N impressions, T tokens, D width of the given tokens, W widened width, E = W / T, F inner width.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.compressed import CompressedTokens
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.layout import Axes, Layout, within
from ctr_rec.layers.mlp import MLP, MLPSettings
from ctr_rec.layers.per_token import PerTokenGELU, PerTokenLinear
from ctr_rec.layers.target_attention import TargetAttentionSettings
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.tower import Filling, Tower, TowerConfig
from ctr_rec.schema.table import SparseSpec


class RankMixerConfig(TowerConfig):
    """ffn: F, inner width of the feed-forward networks. attention: of the units that compress sequences. mlp: the head.

    The paper's ablations: use_mixing, per_token_ffn (off: one network for all tokens), use_residual, use_norm.
    """

    filling: ClassVar[Filling] = Filling.POINTWISE
    tokens: TokenSettings = Field(default_factory=TokenSettings)
    attention: TargetAttentionSettings = Field(default_factory=TargetAttentionSettings)
    layers: int = Field(default=2, ge=1)
    ffn: int = Field(default=128, ge=1)
    use_mixing: bool = True
    per_token_ffn: bool = True
    use_residual: bool = True
    use_norm: bool = True
    mlp: MLPSettings = Field(default_factory=MLPSettings)

    def build(self, spec: SparseSpec, channels: tuple[str, ...]) -> RankMixerTower:
        return RankMixerTower(spec, self, channels)


class RankMixerTower(Tower):
    """[N, out_width] from the last layer's tokens side by side."""

    def __init__(self, spec: SparseSpec, config: RankMixerConfig, channels: tuple[str, ...]) -> None:
        super().__init__()
        self.inputs = CompressedTokens(spec, config.tokens, config.attention, channels, "RankMixer")
        names, given = self.inputs.names, config.tokens.width
        part = -(-given // len(names))
        self.width = part * len(names)
        self.widen = PerTokenLinear(names, given, self.width) if self.width != given else None
        # Of a token: part t goes to token t.
        self._parts: Layout = tuple((f"part for {name}", part) for name in names)
        self.layers = nn.ModuleList(RankMixerLayer(names, self.width, config) for _ in range(config.layers))
        self.mlp = MLP(self.width * len(names), config.mlp)
        self.out_width = self.mlp.out_width

    def forward(self, embedded: Embedded, batch: Batch) -> Tensor:
        x_NTW = self.inputs(embedded, batch)
        if self.widen is not None:
            x_NTW = self.widen(x_NTW)
        for layer in self.layers:
            x_NTW = layer(x_NTW)
        return self.mlp(x_NTW.flatten(1))

    def axes(self) -> dict[str, Axes]:
        found = within("inputs", self.inputs.axes(tokens_meet=True))
        if self.widen is not None:
            found |= within("widen", self.widen.axes(None, self._parts))
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, RankMixerLayer)
            found |= within(f"layers.{number}", layer.axes(self._parts))
        tokens: Layout = tuple((name, self.width) for name in self.inputs.names)
        return found | within("mlp", self.mlp.axes(tokens))

    def flops(self, batch: Batch) -> int:
        rows = batch.num_impressions
        total = self.inputs.flops(batch) + self.mlp.flops(rows)
        total += self.widen.flops(rows) if self.widen is not None else 0
        for layer in self.layers:
            assert isinstance(layer, RankMixerLayer)
            total += layer.flops(rows)
        return total


class RankMixerLayer(nn.Module):
    """S = norm(mix(X) + X), X' = norm(FFN(S) + S): [N, T, W] -> [N, T, W]. Without mixing S is X."""

    def __init__(self, names: tuple[str, ...], width: int, config: RankMixerConfig) -> None:
        super().__init__()
        self.tokens, self.width, self.inner = len(names), width, config.ffn
        self.use_mixing, self.use_residual = config.use_mixing, config.use_residual
        self.norm_mixed = nn.LayerNorm(width) if config.use_norm and config.use_mixing else None
        shared = nn.Linear(width, config.ffn), nn.GELU(), nn.Linear(config.ffn, width)
        self.ffn = PerTokenGELU(names, width, config.ffn) if config.per_token_ffn else nn.Sequential(*shared)
        self.norm_out = nn.LayerNorm(width) if config.use_norm else None

    def forward(self, x_NTW: Tensor) -> Tensor:
        if self.use_mixing:
            mixed_NTW = x_NTW.unflatten(-1, (self.tokens, -1)).transpose(1, 2).flatten(2)
            x_NTW = self._joined(mixed_NTW, x_NTW, self.norm_mixed)
        return self._joined(self.ffn(x_NTW), x_NTW, self.norm_out)

    def _joined(self, new_NTW: Tensor, x_NTW: Tensor, norm: nn.LayerNorm | None) -> Tensor:
        joined = new_NTW + x_NTW if self.use_residual else new_NTW
        return norm(joined) if norm is not None else joined

    def axes(self, parts: Layout) -> dict[str, Axes]:
        """parts: what a token's width is made of."""
        of_ffn: dict[str, Axes] = {"0.weight": (None, parts), "2.weight": (parts, None), "2.bias": (parts,)}
        if isinstance(self.ffn, PerTokenGELU):
            of_ffn = self.ffn.axes(parts)
        found = within("ffn", of_ffn)
        for name, norm in (("norm_mixed", self.norm_mixed), ("norm_out", self.norm_out)):
            if norm is not None:
                found |= {f"{name}.weight": (parts,), f"{name}.bias": (parts,)}
        return found

    def flops(self, rows: int) -> int:
        """Alike for shared weights and tokens' own; mixing only moves numbers."""
        return 2 * rows * self.tokens * 2 * self.width * self.inner
