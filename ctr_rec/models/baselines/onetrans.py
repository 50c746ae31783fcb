"""OneTrans (Zhang et al. 2025, arXiv 2510.26104) as EST's table has it (arXiv 2602.10811, section 6.1.3), three ways.

One causal sequence [S; NS]: behaviours S, then feature tokens NS. S sees earlier S alone, so it is computed once for
all candidates; NS sees all of S and earlier NS. Per block

    Z = MixedMHA(RMSNorm(X)) + X;  X <- MixedFFN(RMSNorm(Z)) + Z

where S tokens share the weights of Q, K, V and FFN and each NS token has its own. Pyramid: layer l of `layers` issues
queries from the newest K_l tokens of S alone, keys and values are of all that came in, and K_l tokens go on; K falls
linearly from `span` to `top`. In the paper none of S is left at the top; EST reads the mean of the last layer's
behaviours, so at least one is.

    OneTrans    what the candidate retrieves, B_c, is pooled to one NS token, the first
    OneTrans-D  the same by DIN's target attention, its target the sum of the candidate's tokens [ours]
    OneTrans-F  S = [B_u; B_c]: every impression has its own, as EST's FLOPs of that row have it

Not stated: one output projection W^O for all tokens (the paper's count of (3 + 2r) d^2 per NS token leaves no room for
more); FFN W_2 GELU(W_1 x); one RMSNorm for both kinds of tokens.

Legend: N impressions, L NS tokens, S sequences, P rows of S, D token width, H heads, E width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from ctr_rec.batch.batch import Batch
from ctr_rec.errors import ConfigError
from ctr_rec.layers.behaviours import Sequences
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.heads import head_width
from ctr_rec.layers.layout import Axes, within
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.per_token import PerTokenLinear
from ctr_rec.layers.target_attention import TargetAttention, TargetAttentionSettings
from ctr_rec.layers.token_head import TokenHead
from ctr_rec.layers.token_inputs import Behaviours, TokenInputs, Tokens, TokenSettings
from ctr_rec.layers.token_rows import mean_behaviour, per_impression, side_by_side
from ctr_rec.models.tower import Filling, Tower, TowerConfig
from ctr_rec.ops.cross_attention import KeySet, Part, merge, partial
from ctr_rec.ops.jagged import segment_of_row
from ctr_rec.ops.prefix_attention import Backend, Pairs, prefix_attention
from ctr_rec.schema.table import SparseSpec


class Retrieved(str, Enum):
    """What becomes of B_c: OneTrans, OneTrans-D, OneTrans-F."""

    POOLED = "pooled"
    DIN = "din"
    FULL = "full"


class OneTransConfig(TowerConfig):
    """span, top: S tokens that may enter the first layer's queries and that leave the last. pyramid: off, all stay.

    mixed: off, NS tokens have the weights of S (an ablation of the paper). ffn: inner width.
    """

    filling: ClassVar[Filling] = Filling.POINTWISE
    tokens: TokenSettings = Field(default_factory=TokenSettings)
    layers: int = Field(default=2, ge=1)
    heads: int = Field(default=2, ge=1)
    ffn: int = Field(default=128, ge=1)
    retrieved: Retrieved = Retrieved.POOLED
    din: TargetAttentionSettings = Field(default_factory=TargetAttentionSettings)
    pyramid: bool = True
    span: int = Field(default=50, ge=1)
    top: int = Field(default=1, ge=1)
    mixed: bool = True
    mlp: MLPSettings = Field(default_factory=lambda: MLPSettings(hidden=(64,)))
    attention: Backend = "auto"

    @model_validator(mode="after")
    def _fits(self) -> OneTransConfig:
        head_width(self.heads, self.tokens.width)
        if self.pyramid and self.top > self.span:
            raise ValueError(f"top is {self.top} and span {self.span}; a pyramid narrows: set top to at most span")
        return self

    def kept(self, layer: int) -> int | None:
        """How many of S go on from layer 1, 2, ...; None for all."""
        if not self.pyramid:
            return None
        return self.span - (self.span - self.top) * layer // self.layers

    def build(self, spec: SparseSpec, channels: tuple[str, ...]) -> OneTransTower:
        return OneTransTower(spec, self, channels)


@dataclass(frozen=True)
class Stage:
    """What a layer needs to know of S: its sequences, the rows that go on, and what those see."""

    sequences: Sequences
    kept_P: Tensor
    pairs: Pairs
    after: Sequences

    @classmethod
    def of(cls, sequences: Sequences, most: int | None) -> Stage:
        offsets_S1 = sequences.offsets_S1
        row_P, segment_P = torch.arange(int(offsets_S1[-1]), device=offsets_S1.device), segment_of_row(offsets_S1)
        length_S = offsets_S1.diff()
        if most is not None:
            length_S = length_S.clamp(max=most)
            row_P = row_P[offsets_S1[1:][segment_P] - row_P <= most]
        pairs = Pairs(lo_Q=offsets_S1[segment_P[row_P]], hi_Q=row_P + 1, num_keys=len(segment_P))
        after_S1 = torch.cat([length_S.new_zeros(1), length_S.cumsum(0)])
        return cls(sequences, row_P, pairs, Sequences(sequences.position_P[row_P], after_S1, sequences.segment_N))


class MixedLinear(nn.Module):
    """Of S rows [P, D] by one matrix, of NS tokens [N, L, D] each by its own, or by the same where not mixed."""

    def __init__(self, names: tuple[str, ...], in_width: int, out_width: int, mixed: bool, bias: bool) -> None:
        super().__init__()
        self.s = nn.Linear(in_width, out_width, bias=bias)
        self.ns = PerTokenLinear(names, in_width, out_width, bias=bias) if mixed else None

    def forward(self, s_PD: Tensor, ns_NLD: Tensor) -> tuple[Tensor, Tensor]:
        return self.s(s_PD), (self.s if self.ns is None else self.ns)(ns_NLD)

    def axes(self) -> dict[str, Axes]:
        return within("ns", self.ns.axes()) if self.ns is not None else {}


class OneTransLayer(nn.Module):
    def __init__(self, names: tuple[str, ...], config: OneTransConfig) -> None:
        super().__init__()
        width = config.tokens.width
        self.heads = config.heads
        self.backend: Backend = config.attention
        self.scale = head_width(config.heads, width) ** -0.5
        self.norm, self.ffn_norm = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.qkv = MixedLinear(names, width, 3 * width, config.mixed, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.ffn_in = MixedLinear(names, width, config.ffn, config.mixed, bias=True)
        self.ffn_out = MixedLinear(names, config.ffn, width, config.mixed, bias=True)

    def forward(self, s_PD: Tensor, ns_NLD: Tensor, stage: Stage) -> tuple[Tensor, Tensor]:
        joint_s, joint_ns = self.qkv(self.norm(s_PD), self.norm(ns_NLD))
        q_s, k_s, v_s = joint_s.unflatten(-1, (3, self.heads, -1)).unbind(-3)
        q_ns, k_ns, v_ns = joint_ns.unflatten(-1, (3, self.heads, -1)).unbind(-3)
        pairs = stage.pairs
        attended_s = prefix_attention(
            q_s[stage.kept_P],
            k_s,
            v_s,
            pairs.lo_Q,
            pairs.hi_Q,
            kind="softmax",
            scale=self.scale,
            plan=pairs,
            backend=self.backend,
        )
        over_s = partial(q_ns, KeySet(k_s, v_s, stage.sequences.offsets_S1, stage.sequences.segment_N), self.scale)
        attended_ns = merge([over_s, self._over_earlier(q_ns, k_ns, v_ns)]).out_NLHV
        s_PD = s_PD[stage.kept_P] + self.out(attended_s.flatten(1))
        ns_NLD = ns_NLD + self.out(attended_ns.flatten(2))
        inner_s, inner_ns = self.ffn_in(self.ffn_norm(s_PD), self.ffn_norm(ns_NLD))
        more_s, more_ns = self.ffn_out(functional.gelu(inner_s), functional.gelu(inner_ns))
        return s_PD + more_s, ns_NLD + more_ns

    def _over_earlier(self, q: Tensor, k: Tensor, v: Tensor) -> Part:
        """NS tokens over themselves and the NS tokens before them."""
        score_NLHK = torch.einsum("nlhe,nkhe->nlhk", q, k) * self.scale
        place_L = torch.arange(q.shape[1], device=q.device)
        later_L1K = (place_L > place_L[:, None]).unsqueeze(1)
        score_NLHK = score_NLHK.masked_fill(later_L1K, -torch.inf)
        return Part(torch.einsum("nlhk,nkhe->nlhe", score_NLHK.softmax(-1), v), score_NLHK.logsumexp(-1))

    def axes(self) -> dict[str, Axes]:
        parts = {"qkv": self.qkv, "ffn_in": self.ffn_in, "ffn_out": self.ffn_out}
        return {name: axes for path, part in parts.items() for name, axes in within(path, part.axes()).items()}


class OneTransTower(Tower):
    """[N, out_width]."""

    def __init__(self, spec: SparseSpec, config: OneTransConfig, channels: tuple[str, ...]) -> None:
        super().__init__()
        self.config = config
        self.inputs = TokenInputs(spec, config.tokens, channels, "OneTrans")
        width, more = config.tokens.width, tuple(n for n in self.inputs.behaviours if n != config.tokens.recent)
        if not more and config.retrieved is not Retrieved.POOLED:
            raise ConfigError(
                f"tower.retrieved is {config.retrieved.value!r}, which would have no effect without retrieved "
                "behaviours; set tower.tokens.retrieval, or leave tower.retrieved out"
            )
        self.pooled = more if config.retrieved is not Retrieved.FULL else ()
        self.names = (*(f"{config.retrieved.value}/{name}" for name in self.pooled), *self.inputs.names)
        by_din = self.pooled if config.retrieved is Retrieved.DIN else ()
        self.din = nn.ModuleDict({name: TargetAttention(width, config.din, {}) for name in by_din})
        self.layers = nn.ModuleList(OneTransLayer(self.names, config) for _ in range(config.layers))
        self.head = TokenHead(self.names, width, config.mlp)
        self.out_width = self.head.out_width

    def forward(self, embedded: Embedded, batch: Batch) -> Tensor:
        tokens = self.inputs(embedded, batch)
        ns_NLD = torch.cat([*(self._one_token(name, tokens) for name in self.pooled), tokens.features_NLD], dim=1)
        behaviours = tokens.behaviours[self.config.tokens.recent]
        if self.config.retrieved is Retrieved.FULL:
            behaviours = per_impression(tuple(tokens.behaviours.values()), batch.num_impressions)
        s_PD = behaviours.x_PD
        stages = self._stages(behaviours.sequences)
        for layer, stage in zip(self._layers(), stages, strict=True):
            s_PD, ns_NLD = layer(s_PD, ns_NLD, stage)
        return self.head(ns_NLD, mean_behaviour(Behaviours(s_PD, stages[-1].after)))

    def _one_token(self, name: str, tokens: Tokens) -> Tensor:
        """[N, 1, D]."""
        behaviours = tokens.behaviours[name]
        if self.config.retrieved is Retrieved.POOLED:
            return mean_behaviour(behaviours).unsqueeze(1)
        candidate = [n for n, one in enumerate(self.inputs.names) if one.startswith("candidate/")]
        target_ND = tokens.features_NLD[:, candidate].sum(dim=1)
        row_P, offsets_N1 = behaviours.sequences.rows_of_impressions()
        return self.din[name](target_ND, behaviours.x_PD, row_P, offsets_N1, {}).unsqueeze(1)

    def _stages(self, sequences: Sequences) -> list[Stage]:
        found = []
        for number in range(1, self.config.layers + 1):
            found.append(Stage.of(sequences, self.config.kept(number)))
            sequences = found[-1].after
        return found

    def _layers(self) -> list[OneTransLayer]:
        return [layer for layer in self.layers if isinstance(layer, OneTransLayer)]

    def axes(self) -> dict[str, Axes]:
        found = within("inputs", self.inputs.axes(tokens_meet=True)) | within("head", self.head.axes())
        for number, layer in enumerate(self._layers()):
            found |= within(f"layers.{number}", layer.axes())
        return found

    def flops(self, batch: Batch) -> int:
        """S once for each distinct sequence, or, where it holds what the candidate retrieves, for each impression."""
        config, impressions, tokens = self.config, batch.num_impressions, len(self.names)
        width, found = config.tokens.width, self.inputs.sequences(batch).sequences
        sequences = found[config.tokens.recent]
        if config.retrieved is Retrieved.FULL:
            sequences = side_by_side(tuple(found.values()), impressions)[1]
        dense, total = 2 * width * width, self.inputs.flops(batch) + self.head.flops(impressions)
        for stage in self._stages(sequences):
            before, after = len(stage.sequences.position_P), len(stage.kept_P)
            length_S = stage.sequences.offsets_S1.diff()
            read = int((length_S if sequences.segment_N is None else length_S[sequences.segment_N]).sum())
            pairs = int((stage.pairs.hi_Q - stage.pairs.lo_Q).sum()) + tokens * read
            pairs += impressions * tokens * (tokens + 1) // 2
            rows = after + impressions * tokens
            total += dense * (2 * (before + impressions * tokens) + 2 * rows) + 2 * 2 * width * pairs
            total += 2 * 2 * rows * width * config.ffn
        for name, unit in self.din.items():
            assert isinstance(unit, TargetAttention)
            read = len(found[name].position_P)
            total += unit.flops(impressions, read, read)
        return total
