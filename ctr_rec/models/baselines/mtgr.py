"""MTGR (Han et al. 2025, arXiv 2505.18654) as EST's table has it (arXiv 2602.10811, section 6.1.3).

MTGR's sequence is [user scalars u | behaviours s | candidates]. In EST feature tokens N stand in place of u, the user's
recent behaviours B_u are s, and what the candidate retrieves, B_c, is pooled to one token that joins N. Per layer,
HSTU's with a norm for each group of tokens:

    X~ = GroupLN(X);  Q, K, V, U = SiLU(X~ W);  A = (SiLU(Q K^T / sqrt(E)) * M) V / c
    X <- GroupLN(A * U) W_o + X

M: B_u sees B_u, both directions, and N sees B_u and N. B_u does not see N: the candidate is in N, and B_u is shared by
all candidates of a request. c is a constant or the number of tokens seen. The paper divides by N_total, of which is
not stated whether it counts padding; the longest of a batch would couple users. "MLP" in the paper is read as HSTU's:
one layer with SiLU in, one linear out. Groups: behaviours, and of N those of one origin (candidate, request, ...).

Legend: N impressions, S sequences, L feature tokens, G groups, P behaviour tokens of distinct sequences, Q = N * L
queries, D token width, H heads, E width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.behaviours import Sequences
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.heads import head_width
from ctr_rec.layers.layout import Axes, within
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.packed import Ranges
from ctr_rec.layers.per_token import token_layout
from ctr_rec.layers.token_head import TokenHead
from ctr_rec.layers.token_inputs import Behaviours, TokenInputs, TokenSettings
from ctr_rec.layers.token_rows import mean_behaviour, ranges_of
from ctr_rec.models.baselines.hstu import AttentionNorm
from ctr_rec.models.tower import Filling, Tower, TowerConfig
from ctr_rec.ops.jagged import segment_of_row
from ctr_rec.ops.prefix_attention import Backend, prefix_attention
from ctr_rec.schema.table import SparseSpec

_BEHAVIOURS = "behaviours"
_EPS = 1e-6


class MTGRConfig(TowerConfig):
    """norm, norm_constant: what c is. group_norm: off, one norm for all tokens (an ablation of the paper)."""

    filling: ClassVar[Filling] = Filling.POINTWISE
    tokens: TokenSettings = Field(default_factory=TokenSettings)
    layers: int = Field(default=2, ge=1)
    heads: int = Field(default=2, ge=1)
    norm: AttentionNorm = AttentionNorm.CONSTANT
    norm_constant: float = Field(default=64.0, gt=0)
    group_norm: bool = True
    dropout: float = Field(default=0.1, ge=0, lt=1)
    mlp: MLPSettings = Field(default_factory=lambda: MLPSettings(hidden=(64,)))
    attention: Backend = "auto"

    @model_validator(mode="after")
    def _heads_divide(self) -> MTGRConfig:
        head_width(self.heads, self.tokens.width)
        return self

    def build(self, spec: SparseSpec, channels: tuple[str, ...]) -> MTGRTower:
        return MTGRTower(spec, self, channels)


class GroupNorm(nn.Module):
    """A LayerNorm whose weights are those of the token's group. groups: of the rows of the weights, by name."""

    def __init__(self, groups: tuple[str, ...], width: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight_GD = nn.Parameter(torch.ones(len(groups), width))
        self.bias_GD = nn.Parameter(torch.zeros(len(groups), width))

    def forward(self, x: Tensor, row: Tensor | int) -> Tensor:
        """x: [..., D]. row: group of every token, [L] for [N, L, D], or the one of all."""
        normed = functional.layer_norm(x, x.shape[-1:], eps=_EPS)
        return torch.addcmul(self.bias_GD[row], normed, self.weight_GD[row])

    def axes(self) -> dict[str, Axes]:
        return dict.fromkeys(("weight_GD", "bias_GD"), (token_layout(self.groups), None))


@dataclass(frozen=True)
class Sight:
    """What is alike in all layers: ranges of the behaviours and of the feature tokens over B_u, and each row's group.

    order_N: impressions by sequence, as the op wants them. count_N: behaviours that each reads.
    """

    of_b: Ranges
    of_n: Ranges
    order_N: Tensor
    back_N: Tensor
    count_N: Tensor
    group_L: Tensor


class MTGRLayer(nn.Module):
    def __init__(self, groups: tuple[str, ...], config: MTGRConfig) -> None:
        super().__init__()
        width = config.tokens.width
        self.config, self.heads, self.scale = config, config.heads, head_width(config.heads, width) ** -0.5
        self.norm_in, self.norm_out = GroupNorm(groups, width), GroupNorm(groups, width)
        self.qkvu = nn.Linear(width, 4 * width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, n_NLD: Tensor, b_PD: Tensor, sight: Sight) -> tuple[Tensor, Tensor]:
        last = len(self.norm_in.groups) - 1  # the behaviours' group, or the only one
        q_b, k_b, v_b, u_b = self._project(self.norm_in(b_PD, last))
        q_n, k_n, v_n, u_n = self._project(self.norm_in(n_NLD, sight.group_L))
        attended_b = self._over_behaviours(q_b, k_b, v_b, sight.of_b)
        seen = self._over_behaviours(q_n[sight.order_N].flatten(0, 1), k_b, v_b, sight.of_n)
        weight_NHLK = functional.silu(torch.einsum("nlhe,nkhe->nhlk", q_n, k_n) * self.scale)
        attended_n = torch.einsum("nhlk,nkhe->nlhe", weight_NHLK, v_n) + seen.unflatten(0, q_n.shape[:2])[sight.back_N]
        if self.config.norm is AttentionNorm.CONSTANT:
            attended_b, attended_n = (a / self.config.norm_constant for a in (attended_b, attended_n))
        else:
            length_P, count_N = sight.of_b.hi - sight.of_b.lo, sight.count_N + n_NLD.shape[1]
            attended_b = attended_b / length_P.to(attended_b.dtype)[:, None, None]
            attended_n = attended_n / count_N.to(attended_n.dtype)[:, None, None, None]
        b_PD = b_PD + self._update(attended_b.flatten(-2), u_b.flatten(-2), last)
        return n_NLD + self._update(attended_n.flatten(-2), u_n.flatten(-2), sight.group_L), b_PD

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        return functional.silu(self.qkvu(x)).unflatten(-1, (4, self.heads, -1)).unbind(-3)

    def _over_behaviours(self, q: Tensor, k: Tensor, v: Tensor, seen: Ranges) -> Tensor:
        backend = self.config.attention
        return prefix_attention(q, k, v, seen.lo, seen.hi, scale=self.scale, plan=seen.plan, backend=backend)

    def _update(self, attended: Tensor, u: Tensor, row: Tensor | int) -> Tensor:
        return self.out(self.dropout(self.norm_out(attended * u, row)))

    def axes(self) -> dict[str, Axes]:
        if not self.config.group_norm:
            return {}
        return within("norm_in", self.norm_in.axes()) | within("norm_out", self.norm_out.axes())


class MTGRTower(Tower):
    """[N, out_width]."""

    def __init__(self, spec: SparseSpec, config: MTGRConfig, channels: tuple[str, ...]) -> None:
        super().__init__()
        self.config = config
        self.inputs = TokenInputs(spec, config.tokens, channels, "MTGR")
        self.pooled = tuple(name for name in self.inputs.behaviours if name != config.tokens.recent)
        self.names = (*self.inputs.names, *(f"pooled/{name}" for name in self.pooled))
        origins = [name.split("/")[0] for name in self.names]
        self.groups = (*dict.fromkeys(origins), _BEHAVIOURS) if config.group_norm else ("all",)
        rows = [self.groups.index(origin) if config.group_norm else 0 for origin in origins]
        self.register_buffer("group_L", torch.tensor(rows), persistent=False)
        self.layers = nn.ModuleList(MTGRLayer(self.groups, config) for _ in range(config.layers))
        self.head = TokenHead(self.names, config.tokens.width, config.mlp)
        self.out_width = self.head.out_width

    def forward(self, embedded: Embedded, batch: Batch) -> Tensor:
        tokens = self.inputs(embedded, batch)
        recent = tokens.behaviours[self.config.tokens.recent]
        more = [mean_behaviour(tokens.behaviours[name]).unsqueeze(1) for name in self.pooled]
        n_NLD, b_PD = torch.cat([tokens.features_NLD, *more], dim=1), recent.x_PD
        sight = self._sight(recent.sequences)
        for layer in self._layers():
            n_NLD, b_PD = layer(n_NLD, b_PD, sight)
        return self.head(n_NLD, mean_behaviour(Behaviours(b_PD, recent.sequences)))

    def _sight(self, sequences: Sequences) -> Sight:
        assert sequences.segment_N is not None
        assert isinstance(self.group_L, Tensor)
        order_N = sequences.segment_N.argsort(stable=True)
        of_n = ranges_of(sequences, sequences.segment_N[order_N].repeat_interleave(len(self.names)))
        count_N = sequences.offsets_S1.diff()[sequences.segment_N]
        of_b = ranges_of(sequences, segment_of_row(sequences.offsets_S1))
        return Sight(of_b, of_n, order_N, order_N.argsort(), count_N, self.group_L)

    def _layers(self) -> list[MTGRLayer]:
        return [layer for layer in self.layers if isinstance(layer, MTGRLayer)]

    def axes(self) -> dict[str, Axes]:
        found = within("inputs", self.inputs.axes(tokens_meet=True)) | within("head", self.head.axes())
        for number, layer in enumerate(self._layers()):
            found |= within(f"layers.{number}", layer.axes())
        return found

    def flops(self, batch: Batch) -> int:
        """Behaviours count once for each distinct sequence."""
        width, tokens, impressions = self.config.tokens.width, len(self.names), batch.num_impressions
        sequences = self.inputs.sequences(batch).sequences[self.config.tokens.recent]
        assert sequences.segment_N is not None
        length_S = sequences.offsets_S1.diff()
        rows = int(length_S.sum()) + impressions * tokens
        pairs = int((length_S**2).sum()) + tokens * int((length_S[sequences.segment_N] + tokens).sum())
        layer = 2 * rows * 5 * width * width + 2 * 2 * width * pairs
        return self.inputs.flops(batch) + len(self.layers) * layer + self.head.flops(impressions)
