"""Full attention over [N; B]: what EST is measured against (arXiv 2602.10811, section 4.1 and Table 4).

Every token of an impression, feature (N) or behaviour (B), attends to all of them. As B attends to N, which holds the
candidate, behaviour tokens are each impression's own from the first layer on: that is what makes it dear.

    X <- softmax(Q K^T / sqrt(E)) V + X,  (Q, K, V) = Norm(X) (W^Q, W^K, W^V), shared by all tokens, no W^O
    N <- PerTokenFFN(Norm(N)) + N,        B <- SharedFFN(Norm(B)) + B, as EST has them
    head: [N, mean(B)] -> MLP

Not stated, and read as in EST: an RMSNorm before attention and before the FFN, one for N and one for B; SwiGLU.

A block <N, B> of the attention matrix has queries in N and keys in B. Any may be masked, in training or of a trained
tower (`FullAttentionTower.mask`), the paper's Table 1. Whether what is left still sums to one is not stated there:
`renormalise` does both.

Legend: N impressions, L feature tokens, P behaviour tokens (of impressions), D token width, H heads, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.heads import head_width
from ctr_rec.layers.layout import Axes, within
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.per_token import PerTokenSwiGLU, SwiGLU
from ctr_rec.layers.token_head import TokenHead
from ctr_rec.layers.token_inputs import Behaviours, TokenInputs, TokenSettings
from ctr_rec.layers.token_rows import mean_behaviour, per_impression, side_by_side
from ctr_rec.models.tower import Filling, Tower, TowerConfig
from ctr_rec.ops.cross_attention import Backend, KeySet, cross_attention, merge, partial
from ctr_rec.ops.jagged import segment_of_row
from ctr_rec.schema.table import SparseSpec

_EPS = 1e-6


class Block(str, Enum):
    """Queries, then keys."""

    BB = "bb"
    BN = "bn"
    NN = "nn"
    NB = "nb"


@dataclass(frozen=True)
class Mask:
    """Blocks that pass nothing on. renormalise: the softmax runs over what is left; else over all, and the masked
    weights are dropped after it."""

    blocks: frozenset[Block] = frozenset()
    renormalise: bool = True


class FullAttentionConfig(TowerConfig):
    """ffn: inner width of the FFNs. masked, renormalise: see `Mask`. heads: the paper's formula has one."""

    filling: ClassVar[Filling] = Filling.POINTWISE
    tokens: TokenSettings = Field(default_factory=TokenSettings)
    layers: int = Field(default=2, ge=1)
    heads: int = Field(default=1, ge=1)
    ffn: int = Field(default=128, ge=1)
    masked: tuple[Block, ...] = ()
    renormalise: bool = True
    mlp: MLPSettings = Field(default_factory=lambda: MLPSettings(hidden=(64,)))
    attention: Backend = "auto"

    @field_validator("masked")
    @classmethod
    def _leaves_one(cls, masked: tuple[Block, ...]) -> tuple[Block, ...]:
        if len(set(masked)) == len(Block):
            raise ValueError("masks all four blocks, which leaves no attention to train; leave one of them out")
        return masked

    @model_validator(mode="after")
    def _heads_divide(self) -> FullAttentionConfig:
        head_width(self.heads, self.tokens.width)
        return self

    def build(self, spec: SparseSpec, channels: tuple[str, ...]) -> FullAttentionTower:
        return FullAttentionTower(spec, self, channels)


@dataclass(frozen=True)
class Projected:
    """Queries, keys and values of one layer: of feature tokens [N, L, H, E], of behaviours [P, H, E]."""

    n: tuple[Tensor, Tensor, Tensor]
    b: tuple[Tensor, Tensor, Tensor]
    offsets_N1: Tensor


Watch = Callable[[int, Projected], None]


class FullAttentionLayer(nn.Module):
    def __init__(self, names: tuple[str, ...], config: FullAttentionConfig) -> None:
        super().__init__()
        width = config.tokens.width
        self.heads, self.scale = config.heads, head_width(config.heads, width) ** -0.5
        self.backend: Backend = config.attention
        self.norm_n, self.norm_b = nn.RMSNorm(width, eps=_EPS), nn.RMSNorm(width, eps=_EPS)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.ffn_norm_n, self.ffn_norm_b = nn.RMSNorm(width, eps=_EPS), nn.RMSNorm(width, eps=_EPS)
        self.ffn_n = PerTokenSwiGLU(names, width, config.ffn)
        self.ffn_b = SwiGLU(width, config.ffn)

    def project(self, n_NLD: Tensor, b_PD: Tensor, offsets_N1: Tensor) -> Projected:
        return Projected(self._split(self.norm_n(n_NLD)), self._split(self.norm_b(b_PD)), offsets_N1)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return q, k, v

    def forward(self, n_NLD: Tensor, b_PD: Tensor, found: Projected, mask: Mask) -> tuple[Tensor, Tensor]:
        (q_n, k_n, v_n), (q_b, k_b, v_b) = found.n, found.b
        num_impressions, num_tokens = n_NLD.shape[:2]
        feature_N1 = torch.arange(num_impressions + 1, device=n_NLD.device) * num_tokens
        segment_P = segment_of_row(found.offsets_N1)

        def keys(segment: Tensor | None) -> tuple[KeySet, KeySet]:
            of_n = KeySet(k_n.flatten(0, 1), v_n.flatten(0, 1), feature_N1, segment)
            return of_n, KeySet(k_b, v_b, found.offsets_N1, segment)

        of_n, of_b = keys(None)
        n_NLD = n_NLD + self._attend(q_n, {Block.NN: of_n, Block.NB: of_b}, mask).flatten(2)
        of_n, of_b = keys(segment_P)
        attended = self._attend(q_b.unsqueeze(1), {Block.BN: of_n, Block.BB: of_b}, mask)
        b_PD = b_PD + attended.flatten(1)
        return n_NLD + self.ffn_n(self.ffn_norm_n(n_NLD)), b_PD + self.ffn_b(self.ffn_norm_b(b_PD))

    def _attend(self, q: Tensor, keys: dict[Block, KeySet], mask: Mask) -> Tensor:
        left = [of_block for block, of_block in keys.items() if block not in mask.blocks]
        if mask.renormalise or len(left) == len(keys):
            return cross_attention(q, left, self.scale, self.backend) if left else torch.zeros_like(q)
        parts = {block: partial(q, of_block, self.scale) for block, of_block in keys.items()}
        return merge([p._replace(out_NLHV=p.out_NLHV * (b not in mask.blocks)) for b, p in parts.items()]).out_NLHV


class FullAttentionTower(Tower):
    """[N, out_width]. mask: what is masked now; the config's to begin with."""

    def __init__(self, spec: SparseSpec, config: FullAttentionConfig, channels: tuple[str, ...]) -> None:
        super().__init__()
        self.config = config
        self.inputs = TokenInputs(spec, config.tokens, channels, "full attention")
        names = self.inputs.names
        self.layers = nn.ModuleList(FullAttentionLayer(names, config) for _ in range(config.layers))
        self.head = TokenHead(names, config.tokens.width, config.mlp)
        self.out_width = self.head.out_width
        self.mask = Mask(frozenset(config.masked), config.renormalise)

    def forward(self, embedded: Embedded, batch: Batch, watch: Watch | None = None) -> Tensor:
        """watch: called with each layer's number, from 0, and its projections."""
        tokens = self.inputs(embedded, batch)
        behaviours = per_impression(tuple(tokens.behaviours.values()), batch.num_impressions)
        n_NLD, b_PD, sequences = tokens.features_NLD, behaviours.x_PD, behaviours.sequences
        for depth, layer in enumerate(self._layers()):
            found = layer.project(n_NLD, b_PD, sequences.offsets_S1)
            if watch is not None:
                watch(depth, found)
            n_NLD, b_PD = layer(n_NLD, b_PD, found, self.mask)
        return self.head(n_NLD, mean_behaviour(Behaviours(b_PD, sequences)))

    def _layers(self) -> list[FullAttentionLayer]:
        return [layer for layer in self.layers if isinstance(layer, FullAttentionLayer)]

    def axes(self) -> dict[str, Axes]:
        found = within("inputs", self.inputs.axes(tokens_meet=True)) | within("head", self.head.axes())
        for number, layer in enumerate(self._layers()):
            found |= within(f"layers.{number}.ffn_n", layer.ffn_n.axes())
        return found

    def flops(self, batch: Batch) -> int:
        """Behaviours count once for every impression that reads them. Masked blocks are counted: nothing is saved."""
        config, impressions, tokens = self.config, batch.num_impressions, len(self.inputs.names)
        width, found = config.tokens.width, tuple(self.inputs.sequences(batch).sequences.values())
        length_N = side_by_side(found, impressions)[1].offsets_S1.diff()
        rows, pairs = int(length_N.sum()), int(((length_N + tokens) ** 2).sum())
        total = self.inputs.flops(batch) + self.head.flops(impressions)
        for layer in self._layers():
            total += 2 * (rows + impressions * tokens) * 3 * width * width + 2 * 2 * width * pairs
            total += layer.ffn_n.flops(impressions) + layer.ffn_b.flops(rows)
        return total
