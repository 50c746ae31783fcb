"""HiFormer (arXiv 2311.05884): attention among tokens in which each token has projections of its own.

In EST's Table 3 (arXiv 2602.10811) its features are feature tokens and DIN-compressed behaviour sequences, and all
tokens of the last layer go to the head side by side. Which of HiFormer's forms was run is not stated: by default it is
the heterogeneous one, each token with its own Q, K, V, O and feed-forward network; `composite` is HiFormer proper.
[ours] Residuals and norms stand as in EST's own block, before each part.

Legend: N impressions, L tokens, Q of them that query, D token width, H heads, E width of a head in one projection,
R rank.
"""

from __future__ import annotations

from typing import ClassVar

import torch
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

TASK = "task"


class HiFormerConfig(TowerConfig):
    """key_width, value_width: of a head. ffn: inner width. attention: of the units that compress sequences. mlp: head.

    composite: queries, keys and values of a head are one projection of all tokens side by side, of key_rank (queries
    too) and value_rank; null is a full matrix (the paper at D 128: ranks 128 and 1,024, d_k 16, d_v 64, ffn 512).
    task_token: a learnt token joins, the last layer computes its query alone, and the head reads nothing else.
    """

    filling: ClassVar[Filling] = Filling.POINTWISE
    tokens: TokenSettings = Field(default_factory=TokenSettings)
    attention: TargetAttentionSettings = Field(default_factory=TargetAttentionSettings)
    layers: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)
    key_width: int = Field(default=8, ge=1)
    value_width: int = Field(default=32, ge=1)
    ffn: int = Field(default=256, ge=1)
    composite: bool = False
    key_rank: int | None = Field(default=32, ge=1)
    value_rank: int | None = Field(default=128, ge=1)
    task_token: bool = False
    mlp: MLPSettings = Field(default_factory=MLPSettings)

    def build(self, spec: SparseSpec, channels: tuple[str, ...]) -> HiFormerTower:
        return HiFormerTower(spec, self, channels)


class HiFormerTower(Tower):
    """[N, out_width] from the last layer's tokens side by side, or from the task token."""

    def __init__(self, spec: SparseSpec, config: HiFormerConfig, channels: tuple[str, ...]) -> None:
        super().__init__()
        self.inputs = CompressedTokens(spec, config.tokens, config.attention, channels, "HiFormer")
        width, names = config.tokens.width, self.inputs.names
        self.task_D = nn.Parameter(torch.empty(width).normal_(std=0.02)) if config.task_token else None
        if self.task_D is not None:
            names = (*names, TASK)
        read = names if self.task_D is None else (TASK,)
        last = config.layers - 1
        self.layers = nn.ModuleList(
            HiFormerLayer(names, read if number == last else names, config) for number in range(config.layers)
        )
        self._read: Layout = tuple((name, width) for name in read)
        self.mlp = MLP(width * len(read), config.mlp)
        self.out_width = self.mlp.out_width

    def forward(self, embedded: Embedded, batch: Batch) -> Tensor:
        x_NLD = self.inputs(embedded, batch)
        if self.task_D is not None:
            x_NLD = torch.cat([x_NLD, self.task_D.expand(x_NLD.shape[0], 1, -1)], dim=1)
        for layer in self.layers:
            x_NLD = layer(x_NLD)
        return self.mlp(x_NLD.flatten(1))

    def axes(self) -> dict[str, Axes]:
        found = within("inputs", self.inputs.axes(tokens_meet=True)) | within("mlp", self.mlp.axes(self._read))
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, HiFormerLayer)
            found |= within(f"layers.{number}", layer.axes())
        return found

    def flops(self, batch: Batch) -> int:
        rows = batch.num_impressions
        total = self.inputs.flops(batch) + self.mlp.flops(rows)
        for layer in self.layers:
            assert isinstance(layer, HiFormerLayer)
            total += layer.flops(rows)
        return total


class HiFormerLayer(nn.Module):
    """[N, L, D] -> [N, Q, D]: X + O(attention(norm X)), then + FFN(norm of it), for the last Q tokens."""

    def __init__(self, names: tuple[str, ...], queries: tuple[str, ...], config: HiFormerConfig) -> None:
        super().__init__()
        width, heads, self.config = config.tokens.width, config.heads, config
        self.names, self.queries = names, queries
        self.norm = nn.LayerNorm(width)
        if config.composite:
            sizes = {"names": names, "width": width, "heads": heads}
            self.query = CompositeProjection(**sizes, out=queries, head_width=config.key_width, rank=config.key_rank)
            self.key = CompositeProjection(**sizes, out=names, head_width=config.key_width, rank=config.key_rank)
            self.value = CompositeProjection(**sizes, out=names, head_width=config.value_width, rank=config.value_rank)
        else:
            self.query = PerTokenLinear(queries, width, heads * config.key_width)
            self.key = PerTokenLinear(names, width, heads * config.key_width)
            self.value = PerTokenLinear(names, width, heads * config.value_width)
        self.out = PerTokenLinear(queries, heads * config.value_width, width)
        self.norm_ffn = nn.LayerNorm(width)
        self.ffn = PerTokenGELU(queries, width, config.ffn)

    def forward(self, x_NLD: Tensor) -> Tensor:
        normed_NLD = self.norm(x_NLD)
        asking_NLD = normed_NLD if self.config.composite else normed_NLD[:, -len(self.queries) :]
        q_NHQE, k_NHLE = self._heads(self.query(asking_NLD)), self._heads(self.key(normed_NLD))
        weight_NHQL = (self.config.key_width**-0.5 * q_NHQE @ k_NHLE.mT).softmax(dim=-1)
        attended = (weight_NHQL @ self._heads(self.value(normed_NLD))).transpose(1, 2).flatten(2)
        x_NQD = x_NLD[:, -len(self.queries) :] + self.out(attended)
        return x_NQD + self.ffn(self.norm_ffn(x_NQD))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.config.heads, -1)).transpose(1, 2)

    def axes(self) -> dict[str, Axes]:
        parts = {"query": self.query, "key": self.key, "value": self.value, "out": self.out, "ffn": self.ffn}
        return {name: axes for path, part in parts.items() for name, axes in within(path, part.axes()).items()}

    def flops(self, rows: int) -> int:
        """rows: N. Two products per pair of tokens beside the projections."""
        pairs = len(self.queries) * len(self.names)
        total = 2 * rows * pairs * self.config.heads * (self.config.key_width + self.config.value_width)
        return total + sum(part.flops(rows) for part in (self.query, self.key, self.value, self.out, self.ffn))


class CompositeProjection(nn.Module):
    """[N, L, D] -> [N, Q, H * E]: head by head, all Q results are one matrix times all L tokens side by side.

    out: names of the Q tokens. rank: R of the two factors that the matrix [L * D, Q * E] is the product of; None is the
    matrix itself.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        out: tuple[str, ...],
        width: int,
        heads: int,
        head_width: int,
        rank: int | None,
    ) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width
        self._inputs: Layout = tuple((name, width) for name in names)
        self._outputs: Layout = tuple((name, head_width) for name in out)
        wide, inner = width * len(names), rank if rank is not None else width * len(names)
        self.down = nn.Linear(wide, heads * inner, bias=False) if rank is not None else None
        self.up_HRE = nn.Parameter(torch.empty(heads, inner, head_width * len(out)).uniform_(-1, 1) * inner**-0.5)

    def forward(self, x_NLD: Tensor) -> Tensor:
        all_NW = x_NLD.flatten(1)
        if self.down is None:
            low_HNR = all_NW.expand(self.heads, -1, -1)
        else:
            low_HNR = self.down(all_NW).unflatten(-1, (self.heads, -1)).transpose(0, 1)
        found_HNQE = torch.bmm(low_HNR, self.up_HRE).unflatten(-1, (-1, self.head_width))
        return found_HNQE.permute(1, 2, 0, 3).flatten(2)

    def axes(self) -> dict[str, Axes]:
        if self.down is None:
            return {"up_HRE": (None, self._inputs, self._outputs)}
        return {"up_HRE": (None, None, self._outputs), "down.weight": (None, self._inputs)}

    def flops(self, rows: int) -> int:
        heads, inner, out = self.up_HRE.shape
        return 2 * rows * (heads * inner * out + (self.down.weight.numel() if self.down is not None else 0))
