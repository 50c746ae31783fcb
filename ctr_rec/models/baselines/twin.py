"""TWIN (Chang et al. 2023, arXiv 2302.02352): what searches the long history is the attention that then reads it.

    alpha_p^h = (W_q^h t) . (W_k^h e_p) / sqrt(E) + sum_j beta_jp^h      t, e_p: item vectors of candidate, behaviour
    GSU   the `most` of the channel with the largest sum of alpha over heads
    ESU   concat_h( softmax_p(alpha_p^h) W_v^h [e_p, c_p] ) W_o            over those alone

Both have the same parameters; the choice passes no gradient. A behaviour's own features, e, are projected once per
item. What it says of user and item together (c_p: the action, the time to the request, features of the event) adds one
number per feature and head, beta, instead of a key. Taking the sum over heads for the search is ours. As W_v is linear,
its part of c is a table or a map of its own here.

That token goes to an MLP beside the feature tokens and DIN's token of the recent channel, as in SIM.

Legend: M distinct items, T packed events, N impressions, P (impression, event) pairs, D token width, H heads, E width
of a head, C = H + D, an event's numbers and its part of the value.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from ctr_rec.batch.batch import Batch, Jagged
from ctr_rec.errors import ConfigError
from ctr_rec.layers.compressed import CompressedTokens
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.fields import join, layout
from ctr_rec.layers.heads import head_width
from ctr_rec.layers.layout import Axes, Layout, size, within
from ctr_rec.layers.mlp import MLP, MLPSettings
from ctr_rec.layers.target_attention import TargetAttentionSettings
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.tower import Filling, Tower, TowerConfig
from ctr_rec.ops.cross_attention import Backend, KeySet, cross_attention
from ctr_rec.ops.jagged import gather, segment_of_row, segment_top
from ctr_rec.ops.prefix_attention import time_bucket
from ctr_rec.schema.table import SparseSpec

# Pairs whose vectors are gathered at a time, so that a long history needs no more memory.
_BLOCK = 2**16


class TWINConfig(TowerConfig):
    """channel: the long history; at most `most` of its events are attended to. heads: of that attention.

    tokens.behaviour.use_action, use_age: whether action and time are among the cross features too.
    attention: of DIN's unit over recent behaviours.
    """

    filling: ClassVar[Filling] = Filling.POINTWISE
    tokens: TokenSettings = Field(default_factory=TokenSettings)
    channel: str = "lifelong"
    most: int = Field(default=50, ge=1)
    heads: int = Field(default=4, ge=1)
    attention: TargetAttentionSettings = Field(default_factory=TargetAttentionSettings)
    mlp: MLPSettings = Field(default_factory=MLPSettings)
    backend: Backend = "auto"

    @model_validator(mode="after")
    def _fits(self) -> TWINConfig:
        head_width(self.heads, self.tokens.width)
        if self.tokens.retrieval is not None:
            raise ValueError(
                "TWIN searches by its own attention; set tokens.retrieval to null, and tower.channel and tower.most to "
                "what is searched"
            )
        return self

    def build(self, spec: SparseSpec, channels: tuple[str, ...]) -> TWINTower:
        if self.channel not in channels:
            raise ConfigError(
                f"TWIN searches the channel {self.channel!r}, data.channels has {sorted(channels) or 'none'}; add it "
                "with a large `last`, or name another in tower.channel"
            )
        return TWINTower(spec, self, channels)


class TWINAttention(nn.Module):
    """[N, D]: GSU and ESU. item: what item vectors are made of."""

    def __init__(self, spec: SparseSpec, item: Layout, config: TWINConfig) -> None:
        super().__init__()
        width, self.config, self.ticks_per_second = config.tokens.width, config, spec.ticks_per_second
        self.scale, self.features = head_width(config.heads, width) ** -0.5, spec.event
        self._item, self._event = item, layout(spec, "event", spec.event)
        behaviour, cross = config.tokens.behaviour, config.heads + width
        self.query, self.key, self.value = (nn.Linear(size(item), width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width, bias=False)
        self.event = nn.Linear(size(self._event), cross, bias=False) if spec.event else None
        self.action_AC = nn.Parameter(torch.zeros(spec.num_actions, cross)) if behaviour.use_action else None
        self.age_BC = nn.Parameter(torch.zeros(behaviour.ages, cross)) if behaviour.use_age else None

    def forward(self, item_MD: Tensor, embedded: Embedded, batch: Batch) -> Tensor:
        heads, history = self.config.heads, batch.histories[self.config.channel]
        q_MD, k_MD = self.query(item_MD), self.key(item_MD)
        cross_TC = self._of_events(embedded, batch).to(q_MD.dtype)
        chosen = self._search(q_MD, k_MD, cross_TC, history, batch)
        item_P = batch.event_item[chosen.values]
        cross_PC = gather(cross_TC, chosen.values)
        if self.age_BC is not None:
            cross_PC = cross_PC + gather(self.age_BC, self._age(chosen, batch))
        beta_PH, more_PD = cross_PC.split([heads, self.config.tokens.width], dim=1)
        q_N1HE = gather(q_MD, batch.impression_item).unflatten(-1, (1, heads, -1))
        k_PHE = gather(k_MD, item_P).unflatten(-1, (heads, -1))
        v_PHE = (gather(self.value(item_MD), item_P) + more_PD).unflatten(-1, (heads, -1))
        # beta rides as one more column of the keys, met by a one in the query.
        q_N1HE = functional.pad(q_N1HE * self.scale, (0, 1), value=1.0)
        k_PHE = torch.cat([k_PHE, beta_PH.unsqueeze(-1)], dim=-1)
        seen = cross_attention(q_N1HE, [KeySet(k_PHE, v_PHE, chosen.offsets)], 1.0, self.config.backend)
        return self.out(seen.flatten(1))

    @torch.no_grad()
    def _search(self, q_MD: Tensor, k_MD: Tensor, cross_TC: Tensor, history: Jagged, batch: Batch) -> Jagged:
        """GSU: what is left of the history. The heads' products are one over the whole width."""
        candidate_P = batch.impression_item[segment_of_row(history.offsets)]
        item_P = batch.event_item[history.values]
        blocks = zip(candidate_P.split(_BLOCK), item_P.split(_BLOCK), strict=True)
        # Pair by pair: a matrix product's last bits would depend on who else is in the batch, and so would the choice.
        alpha_P = torch.cat([(q_MD[n] * self.scale * k_MD[t]).sum(-1) for n, t in blocks])
        alpha_P = alpha_P + cross_TC[:, : self.config.heads].sum(1)[history.values]
        if self.age_BC is not None:
            alpha_P = alpha_P + self.age_BC[:, : self.config.heads].sum(1)[self._age(history, batch)]
        chosen_P = segment_top(alpha_P, history.offsets, self.config.most)
        count_P1 = functional.pad(chosen_P.cumsum(0), (1, 0))
        return Jagged(history.values[chosen_P], count_P1[history.offsets])

    def _of_events(self, embedded: Embedded, batch: Batch) -> Tensor:
        """Cross features that are the event's own, [T, C]: all but the time to the request."""
        cross = self.out.weight.new_zeros(batch.num_events, self.config.heads + self.config.tokens.width)
        if self.event is not None:
            fields = join(self.features, embedded.events, batch.events, batch.num_events)
            cross = cross + self.event(fields.to(self.event.weight.dtype))
        return cross if self.action_AC is None else cross + gather(self.action_AC, batch.event_action)

    def _age(self, seen: Jagged, batch: Batch) -> Tensor:
        ticks_P = batch.impression_time[segment_of_row(seen.offsets)] - batch.event_time[seen.values]
        seconds_P = torch.div(ticks_P, self.ticks_per_second, rounding_mode="floor")
        return time_bucket(seconds_P, self.config.tokens.behaviour.ages)

    def axes(self) -> dict[str, Axes]:
        found: dict[str, Axes] = dict.fromkeys(("query.weight", "key.weight", "value.weight"), (None, self._item))
        return found | ({"event.weight": (None, self._event)} if self.event is not None else {})

    def flops(self, batch: Batch) -> int:
        """The search over every pair that is seen; attention over those that it leaves, at most `most` of each."""
        width, heads, history = self.config.tokens.width, self.config.heads, batch.histories[self.config.channel]
        chosen = int(history.lengths().clamp(max=self.config.most).sum())
        total = 3 * len(batch.item) * size(self._item) * width + batch.num_events * size(self._event) * (heads + width)
        total += len(history.values) * width + chosen * (2 * width + heads) + batch.num_impressions * width * width
        return 2 * total


class TWINTower(Tower):
    """[N, out_width]."""

    def __init__(self, spec: SparseSpec, config: TWINConfig, channels: tuple[str, ...]) -> None:
        super().__init__()
        self.inputs = CompressedTokens(spec, config.tokens, config.attention, channels, "TWIN")
        self.item = self.inputs.inputs.item
        self.twin = TWINAttention(spec, layout(spec, "item", self.item), config)
        self._layout = (*self.inputs.layout, ("twin", config.tokens.width))
        self.mlp = MLP(size(self._layout), config.mlp)
        self.out_width = self.mlp.out_width

    def forward(self, embedded: Embedded, batch: Batch) -> Tensor:
        item_MD = join(self.item, embedded.items, batch.items, len(batch.item)).to(self.twin.out.weight.dtype)
        tokens_NLD = self.inputs(embedded, batch)
        return self.mlp(torch.cat([tokens_NLD.flatten(1), self.twin(item_MD, embedded, batch)], dim=-1))

    def axes(self) -> dict[str, Axes]:
        found = within("inputs", self.inputs.axes()) | within("twin", self.twin.axes())
        return found | within("mlp", self.mlp.axes(self._layout))

    def flops(self, batch: Batch) -> int:
        return self.inputs.flops(batch) + self.twin.flops(batch) + self.mlp.flops(batch.num_impressions)
