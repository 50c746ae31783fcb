"""DIN as it is commonly written: histories padded to the cap, plain PyTorch layers. What our DIN is measured against.

Legend: N impressions, L padded history length, M distinct items, D width.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.context import Context
from ctr_rec.layers.embedding import SparseFront
from ctr_rec.layers.fields import join, width
from ctr_rec.layers.mlp import MLP
from ctr_rec.layers.target_attention import TargetAttention, TargetAttentionSettings
from ctr_rec.models.baselines.din import DINConfig
from ctr_rec.models.ranker import Ranker
from ctr_rec.schema.table import SparseSpec


class PaddedAttention(nn.Module):
    """DIN's activation unit as commonly written: [t, h, t - h, t * h] of every padded position through plain layers."""

    def __init__(self, width: int, settings: TargetAttentionSettings) -> None:
        super().__init__()
        widths = (4 * width, *settings.hidden)
        layers = [nn.Linear(before, after) for before, after in itertools.pairwise(widths)]
        self.hidden = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))
        self.out = nn.Linear(settings.hidden[-1], 1)

    def forward(self, target_ND: Tensor, event_NLD: Tensor, mask_NL: Tensor) -> Tensor:
        target_NLD = target_ND[:, None].expand_as(event_NLD)
        parts = [target_NLD, event_NLD, target_NLD - event_NLD, target_NLD * event_NLD]
        score_NL = self.out(self.hidden(torch.cat(parts, dim=-1))).squeeze(-1) * mask_NL
        return (score_NL[..., None] * event_NLD).sum(dim=1)

    def take_weights(self, other: TargetAttention) -> None:
        """Copy the jagged layer's weights, so that both compute one function."""
        mine = [layer for layer in (*self.hidden, self.out) if isinstance(layer, nn.Linear)]
        theirs = [layer for layer in (other.first, *other.hidden, other.out) if isinstance(layer, nn.Linear)]
        for to, source in zip(mine, theirs, strict=True):
            to.load_state_dict(source.state_dict())


@dataclass(frozen=True)
class PaddedHistory:
    """item_NL: row of the batch's item level, 0 where `mask_NL` is 0. What a padding data loader hands over."""

    item_NL: Tensor
    mask_NL: Tensor


def pad(batch: Batch, cap: int) -> dict[str, PaddedHistory]:
    """Every channel's histories as rectangles of `cap` columns, oldest first."""
    found = {}
    for name, history in batch.histories.items():
        mask_NL = torch.arange(cap) < history.lengths()[:, None]
        item_NL = torch.zeros(mask_NL.shape, dtype=torch.int64)
        item_NL[mask_NL] = batch.event_item[history.values]
        found[name] = PaddedHistory(item_NL, mask_NL)
    return found


class PaddedDIN(nn.Module):
    """Textbook DIN of the widths of `config` over padded histories: logit per impression, [N].

    The look-up of distinct rows, the context and the MLP are the very layers of our DIN; what differs is how a history
    reaches its candidate. Of `config`, whatever a pair says beyond its two items must be off.
    """

    def __init__(self, spec: SparseSpec, config: DINConfig, channels: tuple[str, ...]) -> None:
        super().__init__()
        beyond_items = (config.use_action, config.use_age, config.use_order)
        assert not any(beyond_items), "the padded DIN reads items only"
        self.front = SparseFront(spec)
        self.item = spec.item
        item_D = width(spec, spec.item)
        self.context = Context(spec, config.context)
        self.attention = nn.ModuleDict({name: PaddedAttention(item_D, config.attention) for name in channels})
        self.mlp = MLP(item_D * (1 + len(channels)) + self.context.width, config.mlp)
        self.head = nn.Linear(self.mlp.out_width, 1)

    def forward(self, batch: Batch, histories: dict[str, PaddedHistory]) -> Tensor:
        embedded = self.front(batch)
        item_MD = join(self.item, embedded.items, batch.items, batch.item.shape[0])
        target_ND = functional.embedding(batch.impression_item, item_MD)
        parts = [target_ND, self.context(embedded, batch)]
        for name, attention in self.attention.items():
            padded = histories[name]
            parts.append(attention(target_ND, functional.embedding(padded.item_NL, item_MD), padded.mask_NL))
        return self.head(self.mlp(torch.cat(parts, dim=-1))).squeeze(-1)

    def take_weights(self, other: Ranker) -> None:
        """Copy the dense weights of our DIN, so that both compute one function. Tables begin alike by their seed."""
        theirs = dict(other.tower.named_children())
        self.context.load_state_dict(theirs["context"].state_dict())
        self.mlp.load_state_dict(theirs["mlp"].state_dict())
        self.head.load_state_dict(other.head.state_dict())
        for name, attention in theirs["attention"].named_children():
            mine = self.attention[name]
            assert isinstance(mine, PaddedAttention)
            assert isinstance(attention, TargetAttention)
            mine.take_weights(attention)
