"""BST (Chen et al. 2019, arXiv 1905.06874): behaviours and candidate attend to each other, one Transformer block.

    X = [b_1 ... b_l; c]          of one impression
    X <- LN(X + Drop(MultiHead(X)));  X <- LN(X + Drop(W_2 LeakyReLU(W_1 X + b_1) + b_2))
    head: [feature tokens, c, mean(b)] -> MLP

Everything in X sees everything, the candidate as well, so behaviours are each impression's own. The paper lays all
states of X, of a fixed length, side by side into the MLP; here the candidate's and the mean of the behaviours', the
form that EST's table gives all models (arXiv 2602.10811). c is the sum of the candidate's feature tokens [ours].

A behaviour's position is the time between it and the candidate's request. Here tokens say how long before the newest
behaviour they are, and their order, as for all models that read the recent channel; a feature token holds the gap from
there to the request. The paper's FFN and attention have one slope and dropout each, unstated: 0.01 and `dropout`.

Legend: N impressions, P behaviour tokens (of impressions), D token width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.heads import head_width
from ctr_rec.layers.layout import Axes, within
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.token_head import TokenHead
from ctr_rec.layers.token_inputs import Behaviours, TokenInputs, TokenSettings
from ctr_rec.layers.token_rows import mean_behaviour, per_impression, side_by_side
from ctr_rec.models.tower import Filling, Tower, TowerConfig
from ctr_rec.ops.cross_attention import Backend, KeySet, cross_attention
from ctr_rec.ops.jagged import segment_of_row
from ctr_rec.schema.table import SparseSpec


class BSTConfig(TowerConfig):
    """layers: blocks; the paper finds one best. ffn: inner width of the FFN."""

    filling: ClassVar[Filling] = Filling.POINTWISE
    tokens: TokenSettings = Field(default_factory=TokenSettings)
    layers: int = Field(default=1, ge=1)
    heads: int = Field(default=2, ge=1)
    ffn: int = Field(default=128, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    mlp: MLPSettings = Field(default_factory=MLPSettings)
    attention: Backend = "auto"

    @model_validator(mode="after")
    def _heads_divide(self) -> BSTConfig:
        head_width(self.heads, self.tokens.width)
        return self

    def build(self, spec: SparseSpec, channels: tuple[str, ...]) -> BSTTower:
        return BSTTower(spec, self, channels)


class SelfAttention(nn.Module):
    """Multi-head attention among the behaviours of an impression and its candidate, with biasless maps W^Q to W^O."""

    def __init__(self, width: int, heads: int, backend: Backend) -> None:
        super().__init__()
        self.width, self.heads, self.scale = width, heads, head_width(heads, width) ** -0.5
        self.backend: Backend = backend
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, c_ND: Tensor, b_PD: Tensor, offsets_N1: Tensor) -> tuple[Tensor, Tensor]:
        """offsets_N1: of each impression's own behaviours."""
        own_N1 = torch.arange(len(c_ND) + 1, device=c_ND.device)
        of = ((c_ND, own_N1), (b_PD, offsets_N1))
        q, k, v = zip(
            *(self.query_key_value(x).unflatten(-1, (3, self.heads, -1)).unbind(1) for x, _ in of), strict=True
        )
        found = []
        for q_QHE, (_, offsets) in zip(q, of, strict=True):
            owner_Q = segment_of_row(offsets)
            sets = [KeySet(k_PHE, v_PHE, own, owner_Q) for k_PHE, v_PHE, (_, own) in zip(k, v, of, strict=True)]
            found.append(self.out(cross_attention(q_QHE.unsqueeze(1), sets, self.scale, self.backend).flatten(1)))
        return found[0], found[1]

    def flops(self, offsets_N1: Tensor) -> int:
        length_N = offsets_N1.diff() + 1
        return 2 * int(length_N.sum()) * 4 * self.width**2 + 4 * int(length_N.square().sum()) * self.width


class BSTLayer(nn.Module):
    def __init__(self, config: BSTConfig) -> None:
        super().__init__()
        width = config.tokens.width
        self.attention = SelfAttention(width, config.heads, config.attention)
        self.norm, self.ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, config.ffn), nn.LeakyReLU(), nn.Linear(config.ffn, width))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, c_ND: Tensor, b_PD: Tensor, offsets_N1: Tensor) -> tuple[Tensor, Tensor]:
        """offsets_N1: of each impression's own behaviours."""
        to_c_ND, to_b_PD = self.attention(c_ND, b_PD, offsets_N1)
        return self._rest(c_ND, to_c_ND), self._rest(b_PD, to_b_PD)

    def _rest(self, x: Tensor, attended: Tensor) -> Tensor:
        x = self.norm(x + self.dropout(attended))
        return self.ffn_norm(x + self.dropout(self.ffn(x)))


class BSTTower(Tower):
    """[N, out_width]. All kinds of behaviours that `tokens` names are one sequence, recent ones first."""

    def __init__(self, spec: SparseSpec, config: BSTConfig, channels: tuple[str, ...]) -> None:
        super().__init__()
        self.config = config
        self.inputs = TokenInputs(spec, config.tokens, channels, "BST")
        self._of_candidate = sum(name.startswith("candidate/") for name in self.inputs.names)
        self.layers = nn.ModuleList(BSTLayer(config) for _ in range(config.layers))
        self.head = TokenHead((*self.inputs.names, "candidate"), config.tokens.width, config.mlp)
        self.out_width = self.head.out_width

    def forward(self, embedded: Embedded, batch: Batch) -> Tensor:
        tokens = self.inputs(embedded, batch)
        own = per_impression(tuple(tokens.behaviours.values()), batch.num_impressions)
        b_PD, sequences = own.x_PD, own.sequences
        # Tokens of the candidate stand first.
        c_ND = tokens.features_NLD[:, : self._of_candidate].sum(dim=1)
        for layer in self.layers:
            c_ND, b_PD = layer(c_ND, b_PD, sequences.offsets_S1)
        x_NLD = torch.cat([tokens.features_NLD, c_ND.unsqueeze(1)], dim=1)
        return self.head(x_NLD, mean_behaviour(Behaviours(b_PD, sequences)))

    def axes(self) -> dict[str, Axes]:
        return within("inputs", self.inputs.axes()) | within("head", self.head.axes())

    def flops(self, batch: Batch) -> int:
        """Behaviours count once for every impression that reads them."""
        config, impressions = self.config, batch.num_impressions
        _, sequences = side_by_side(tuple(self.inputs.sequences(batch).sequences.values()), impressions)
        rows = len(sequences.position_P) + impressions
        total = self.inputs.flops(batch) + self.head.flops(impressions)
        for layer in self.layers:
            assert isinstance(layer, BSTLayer)
            total += layer.attention.flops(sequences.offsets_S1) + 2 * rows * 2 * config.tokens.width * config.ffn
        return total
