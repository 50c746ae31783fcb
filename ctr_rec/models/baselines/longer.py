"""LONGER (Chai et al. 2025, arXiv 2505.04421): a long history merged to fewer tokens, read once by all of them.

    behaviours   a b c d e f g h      merge of K = 3, groups counted from the newest:   [. a b] [c d e] [f g h]
    layer 1      queries  G and the newest k merged tokens, keys G and all merged tokens
    layers 2...  queries and keys  G and those k;   of the last layer G alone goes on
    head         G -> MLP

G, the global tokens, are the feature tokens: candidate, profile, request, counters, clock. A layer is
X <- X + MHA(Norm X), X <- X + FFN(Norm X), one set of weights for both kinds of tokens. A merged token sees itself and
older ones and no global token, so its keys and values are a function of the user alone, shared by all candidates of a
request (the paper's KV cache serving). A global token sees the whole sequence and all global tokens; the mask as
printed, j >= i over [G; H], would have it see only the global tokens that stand after it, and features have no order
[ours].

Merging is a linear map of the K tokens side by side, zeros where the oldest group is not full [ours; the paper's merged
tokens stay K d wide]. Left out: InnerTrans, the small Transformer within a group. Of the paper's ways to choose k
queries only its best is here, the newest. Positions (absolute, and time differences) are the tokens' order and age,
counted from the user's newest behaviour. The norm is RMS, the FFN W_2 GELU(W_1 x): both not stated.

Legend: N impressions, L global tokens, S sequences, P behaviour tokens, M merged tokens, K tokens of a group, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.behaviours import Sequences
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.heads import head_width
from ctr_rec.layers.layout import Axes, within
from ctr_rec.layers.mlp import MLP, MLPSettings
from ctr_rec.layers.token_inputs import TokenInputs, TokenSettings
from ctr_rec.models.baselines.onetrans import OneTransConfig, OneTransLayer, Stage
from ctr_rec.models.tower import Filling, Tower, TowerConfig
from ctr_rec.ops.cross_attention import Part
from ctr_rec.ops.jagged import gather, segment_of_row
from ctr_rec.ops.prefix_attention import Backend
from ctr_rec.schema.table import SparseSpec


class LongerConfig(TowerConfig):
    """tokens.recent: the channel with the long history. merge: K; 1, none is merged. newest: k. ffn: inner width.

    layers: the first, which reads all, and at least one over what it made.
    """

    filling: ClassVar[Filling] = Filling.POINTWISE
    tokens: TokenSettings = Field(default_factory=TokenSettings)
    merge: int = Field(default=4, ge=1)
    newest: int = Field(default=32, ge=1)
    layers: int = Field(default=2, ge=2)
    heads: int = Field(default=2, ge=1)
    ffn: int = Field(default=128, ge=1)
    mlp: MLPSettings = Field(default_factory=MLPSettings)
    attention: Backend = "auto"

    @model_validator(mode="after")
    def _fits(self) -> LongerConfig:
        head_width(self.heads, self.tokens.width)
        if self.tokens.retrieval is not None:
            raise ValueError(
                "LONGER reads one long history and searches none; set tokens.retrieval to null and name that history's "
                "channel in tokens.recent"
            )
        return self

    def kept(self, layer: int) -> int | None:
        """Of the sequence, how many tokens go on from layer 1, 2, ...; None for all."""
        return self.newest if layer == 1 else 0 if layer == self.layers else None

    def build(self, spec: SparseSpec, channels: tuple[str, ...]) -> LongerTower:
        return LongerTower(spec, self, channels)


@dataclass(frozen=True)
class Groups:
    """Merged tokens. row_MK: their behaviours, oldest first; the number of behaviours where there is none."""

    row_MK: Tensor
    sequences: Sequences

    @classmethod
    def of(cls, sequences: Sequences, size: int) -> Groups:
        """A merged token stands at the position of its newest behaviour."""
        end_S = sequences.offsets_S1[1:]
        count_S = -(-sequences.offsets_S1.diff() // size)
        offsets_S1 = torch.cat([count_S.new_zeros(1), count_S.cumsum(0)])
        sequence_M = segment_of_row(offsets_S1)
        # How many groups of its sequence are newer than this one.
        newer_M = offsets_S1[1:][sequence_M] - 1 - torch.arange(len(sequence_M), device=end_S.device)
        last_M = end_S[sequence_M] - 1 - newer_M * size
        row_MK = last_M.unsqueeze(1) - torch.arange(size - 1, -1, -1, device=end_S.device)
        row_MK = row_MK.masked_fill(row_MK < sequences.offsets_S1[:-1][sequence_M, None], len(sequences.position_P))
        return cls(row_MK, Sequences(sequences.position_P[last_M], offsets_S1, sequences.segment_N))


class LongerLayer(OneTransLayer):
    """OneTrans's attention over [sequence; global tokens], where global tokens see all of each other."""

    def _over_earlier(self, q: Tensor, k: Tensor, v: Tensor) -> Part:
        score_NLHK = torch.einsum("nlhe,nkhe->nlhk", q, k) * self.scale
        return Part(torch.einsum("nlhk,nkhe->nlhe", score_NLHK.softmax(-1), v), score_NLHK.logsumexp(-1))


class LongerTower(Tower):
    """[N, out_width]."""

    def __init__(self, spec: SparseSpec, config: LongerConfig, channels: tuple[str, ...]) -> None:
        super().__init__()
        self.config = config
        self.inputs = TokenInputs(spec, config.tokens, channels, "LONGER")
        width, names = config.tokens.width, self.inputs.names
        self.merge = nn.Linear(config.merge * width, width)
        shared = OneTransConfig(
            tokens=config.tokens, heads=config.heads, ffn=config.ffn, mixed=False, attention=config.attention
        )
        self.layers = nn.ModuleList(LongerLayer(names, shared) for _ in range(config.layers))
        self.mlp = MLP(width * len(names), config.mlp)
        self.out_width = self.mlp.out_width

    def forward(self, embedded: Embedded, batch: Batch) -> Tensor:
        tokens = self.inputs(embedded, batch)
        behaviours = tokens.behaviours[self.config.tokens.recent]
        groups = Groups.of(behaviours.sequences, self.config.merge)
        x_PD = torch.cat([behaviours.x_PD, behaviours.x_PD.new_zeros(1, self.config.tokens.width)])
        side_by_side = gather(x_PD, groups.row_MK.flatten()).view(len(groups.row_MK), self.merge.in_features)
        h_MD, g_NLD = self.merge(side_by_side), tokens.features_NLD
        for layer, stage in zip(self.layers, self._stages(groups.sequences), strict=True):
            h_MD, g_NLD = layer(h_MD, g_NLD, stage)
        return self.mlp(g_NLD.flatten(1))

    def _stages(self, sequences: Sequences) -> list[Stage]:
        found = []
        for number in range(1, self.config.layers + 1):
            found.append(Stage.of(sequences, self.config.kept(number)))
            sequences = found[-1].after
        return found

    def axes(self) -> dict[str, Axes]:
        inputs = tuple((name, self.config.tokens.width) for name in self.inputs.names)
        return within("inputs", self.inputs.axes(tokens_meet=True)) | within("mlp", self.mlp.axes(inputs))

    def flops(self, batch: Batch) -> int:
        """The sequence once for each distinct one; a group that is not full is merged as a full one."""
        config, impressions, tokens = self.config, batch.num_impressions, len(self.inputs.names)
        width, total = config.tokens.width, self.inputs.flops(batch) + self.mlp.flops(impressions)
        sequences = Groups.of(self.inputs.sequences(batch).sequences[config.tokens.recent], config.merge).sequences
        total += 2 * len(sequences.position_P) * config.merge * width * width
        for stage in self._stages(sequences):
            before, rows = len(stage.sequences.position_P), len(stage.kept_P) + impressions * tokens
            seen_N = stage.sequences.per_impression(stage.sequences.offsets_S1.diff().unsqueeze(1).double())
            pairs = int((stage.pairs.hi_Q - stage.pairs.lo_Q).sum()) + tokens * (
                int(seen_N.sum()) + impressions * tokens
            )
            total += 2 * 3 * width * width * (before + impressions * tokens) + 2 * width * width * rows
            total += 2 * 2 * width * pairs + 2 * 2 * rows * width * config.ffn
        return total
