"""The GRAB tower: tokens, a stack for each channel, target tokens mixed before every layer, their concatenation.

Legend: T events, C events of a channel, N impressions, U users, P profile tokens of each, D
width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctr_rec.batch.batch import Batch
from ctr_rec.errors import ConfigError
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.layout import Axes, within
from ctr_rec.layers.mlp import MLP
from ctr_rec.layers.packed import by_visible_end
from ctr_rec.models.grab.channels import Channel, make_channel
from ctr_rec.models.grab.config import GRABSettings, MixGate
from ctr_rec.models.grab.layer import GRABLayer, TargetMix
from ctr_rec.models.grab.profile import ProfileTokens
from ctr_rec.models.grab.tokenizer import Tokenizer
from ctr_rec.models.tower import Tower
from ctr_rec.schema.table import SparseSpec


class GRABConfig(GRABSettings):
    """See GRABSettings."""

    def build(self, spec: SparseSpec, channels: tuple[str, ...]) -> GRABTower:
        return GRABTower(spec, self)


class GRABTower(Tower):
    """[N, out_width]: the channels' last target vectors side by side, through the MLP where there is one."""

    def __init__(self, spec: SparseSpec, config: GRABSettings) -> None:
        super().__init__()
        _check_actions(config, spec.num_actions)
        self.config = config
        self.ticks_per_second = spec.ticks_per_second
        self.tokenizer = Tokenizer(spec, config)
        self.profile = ProfileTokens(spec, config) if config.profile_tokens else None
        self.dropout = nn.Dropout(config.dropout)
        self.stacks = nn.ModuleDict(
            {
                name: nn.ModuleList(GRABLayer(config, behaviours, spec.num_actions) for _ in range(config.layers))
                for name, behaviours in config.channels.items()
            }
        )
        count = len(config.channels)
        mixes = count > 1 and config.mix is not MixGate.NONE
        self.mixes = nn.ModuleList(
            TargetMix(config.width, count, config.mix) for _ in range(config.layers if mixes else 0)
        )
        self.mlp = MLP(config.width * count, config.mlp) if config.mlp is not None else None
        self.out_width = config.width * count if self.mlp is None else self.mlp.out_width

    def forward(self, embedded: Embedded, batch: Batch) -> Tensor:
        partial_TD, full_ND = self.tokenizer(embedded, batch)
        partial_TD, full_ND = self.dropout(partial_TD), self.dropout(full_ND)
        order_N = by_visible_end(batch)
        channels = [
            make_channel(behaviours, self.config, batch, order_N, self.ticks_per_second)
            for behaviours in self.config.channels.values()
        ]
        profile_UPD = None if self.profile is None else self.dropout(self.profile(embedded, batch))
        user_N = batch.impression_user[order_N]
        state_ND = self._run(partial_TD, full_ND[order_N], channels, profile_UPD, user_N)[order_N.argsort()]
        return state_ND if self.mlp is None else self.mlp(state_ND)

    def _run(
        self, partial_TD: Tensor, full_ND: Tensor, channels: list[Channel], profile_UPD: Tensor | None, user_N: Tensor
    ) -> Tensor:
        histories = [channel.rows(partial_TD) for channel in channels]
        profiles = [profile_UPD for _ in channels]
        targets = [full_ND for _ in channels]
        for depth in range(self.config.layers):
            if len(self.mixes):
                targets = self.mixes[depth](targets)
            last = depth == self.config.layers - 1
            for number, (stack, channel) in enumerate(zip(self.stacks.values(), channels, strict=True)):
                layer, keys = _layer(stack, depth), None
                if (x_UPD := profiles[number]) is not None:
                    keys, profiles[number] = layer.profile_keys(x_UPD, user_N, last)
                histories[number], targets[number] = layer(histories[number], targets[number], channel, last, keys)
        return torch.cat(targets, dim=-1)

    def axes(self) -> dict[str, Axes]:
        return within("tokenizer", self.tokenizer.axes())

    def flops(self, batch: Batch) -> int:
        """From true visible pairs: keys, values, queries, bias scores per query, feed-forward, mixing, tokenizer."""
        order_N = by_visible_end(batch)
        total = self.tokenizer.flops(batch)
        for behaviours in self.config.channels.values():
            channel = make_channel(behaviours, self.config, batch, order_N, self.ticks_per_second)
            total += self._channel_flops(channel, behaviours.window) + self._profile_flops(batch)
        total += self.profile.flops(batch.num_users) if self.profile is not None else 0
        count, width = len(self.config.channels), self.config.width
        if len(self.mixes):
            gate = width * width * (count if self.config.mix is MixGate.JOINT else 1)
            total += len(self.mixes) * count * 2 * batch.num_impressions * gate
        return total + (self.mlp.flops(batch.num_impressions) if self.mlp is not None else 0)

    def _channel_flops(self, channel: Channel, window: int) -> int:
        config, events = self.config, channel.action_C.shape[0]
        impressions = channel.candidates.lo.shape[0]
        inner = config.heads * config.head_width
        key_value = self._key_value_flops()
        codes = (window + 1 if config.use_position else 0) + (config.ages if config.use_time else 0)
        per_query = 2 * (2 * config.width * inner + inner * codes + 2 * config.width * config.ffn)
        per_pair = 2 * 2 * inner
        seen_N = int((channel.candidates.hi - channel.candidates.lo).sum()) + impressions
        total = config.layers * ((events + impressions) * key_value + impressions * per_query + seen_N * per_pair)
        if channel.history is not None:
            seen_C = int((channel.history.hi - channel.history.lo).sum())
            total += (config.layers - 1) * (events * per_query + seen_C * per_pair)
        return total

    def _key_value_flops(self) -> int:
        """Of one token's key and value."""
        config = self.config
        inner, compressed = config.heads * config.head_width, config.latent or config.width
        return 2 * (compressed * 2 * inner + (config.width * config.latent if config.latent else 0))

    def _profile_flops(self, batch: Batch) -> int:
        """Of a channel's profile tokens: keys, values, their own passage, and one pair for every impression."""
        if self.profile is None:
            return 0
        config, tokens = self.config, len(self.profile.features)
        inner = config.heads * config.head_width
        passage = (config.layers - 1) * 2 * (inner * config.width + 2 * config.width * config.ffn)
        per_token = config.layers * self._key_value_flops() + passage
        return tokens * (batch.num_users * per_token + batch.num_impressions * config.layers * 2 * 2 * inner)


def _layer(stack: nn.Module, depth: int) -> GRABLayer:
    assert isinstance(stack, nn.ModuleList)
    layer = stack[depth]
    assert isinstance(layer, GRABLayer)
    return layer


def _check_actions(config: GRABSettings, num_actions: int) -> None:
    for name, behaviours in config.channels.items():
        unknown = [a for a in behaviours.actions or () if not 0 <= a < num_actions]
        if unknown or behaviours.actions == ():
            raise ConfigError(
                f"tower.channels.{name}.actions={behaviours.actions}: expected codes from 0 to {num_actions - 1}, the "
                "log's actions, and at least one; None means all"
            )
