"""The GRAB tower: tokens, a stack for each channel, target tokens mixed before every layer, their concatenation.

Legend: T events, C events of a channel, N impressions, U users, P profile tokens of each, D
width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ctr_rec.batch.batch import Batch
from ctr_rec.errors import ConfigError
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.layout import Axes, within
from ctr_rec.layers.mlp import MLP
from ctr_rec.layers.packed import Ranges, by_visible_end
from ctr_rec.models.grab.channels import Channel, Sight
from ctr_rec.models.grab.config import GRABSettings, MixGate
from ctr_rec.models.grab.layer import GRABLayer, TargetMix
from ctr_rec.models.grab.profile import ProfileTokens
from ctr_rec.models.grab.tokenizer import Tokenizer
from ctr_rec.models.state import ChannelState, HistoryState, bytes_of_states, kept_events
from ctr_rec.models.tower import SplitTower
from ctr_rec.ops.prefix_attention import BlockWeights
from ctr_rec.schema.table import SparseSpec

Watch = Callable[[str, int, Iterator[BlockWeights]], None]
"""Told the channel, the layer (from 0) and its attention weights, a block of impressions at a time."""


class GRABConfig(GRABSettings):
    """See GRABSettings."""

    def build(self, spec: SparseSpec, channels: tuple[str, ...]) -> GRABTower:
        return GRABTower(spec, self)


class GRABTower(SplitTower):
    """[N, out_width]: the channels' last target vectors side by side, through the MLP where there is one."""

    def __init__(self, spec: SparseSpec, config: GRABSettings) -> None:
        super().__init__()
        _check_actions(config, spec.num_actions)
        self.config = config
        self.sights = {name: Sight(b, config, spec.ticks_per_second) for name, b in config.channels.items()}
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

    @property
    def looks_back(self) -> int:
        """A channel of all events reads its newest L_w; the newest of a subset may lie anywhere in the span."""
        config = self.config
        return max(b.window if b.actions is None else config.span for b in config.channels.values())

    def encode_history(self, embedded: Embedded, batch: Batch) -> HistoryState:
        x_TD = self.dropout(self.tokenizer.partial_tokens(embedded, batch))
        return HistoryState.of(batch, {name: self._encode(name, x_TD, batch) for name in self.stacks})

    def _encode(self, name: str, x_TD: Tensor, batch: Batch) -> ChannelState:
        channel = self.sights[name].channel(batch)
        x_CD = channel.rows(x_TD)
        keys, values = [], []
        layers = self._layers(name)
        for depth, layer in enumerate(layers, 1):
            k, v, x_CD = layer.encode(x_CD, channel.action_C, channel.seen if depth < len(layers) else None)
            keys.append(k)
            values.append(v)
        return ChannelState(channel.event_C, tuple(keys), tuple(values))

    def score(self, state: HistoryState, embedded: Embedded, batch: Batch, watch: Watch | None = None) -> Tensor:
        """watch: called before every layer of every channel, with impressions in the order of `by_visible_end`."""
        full_ND = self.dropout(self.tokenizer.full_tokens(embedded, batch))
        order_N = by_visible_end(batch)
        profile_UPD = None if self.profile is None else self.dropout(self.profile(embedded, batch))
        state_ND = self._score(state, full_ND[order_N], batch, order_N, profile_UPD, watch)[order_N.argsort()]
        return state_ND if self.mlp is None else self.mlp(state_ND)

    def _score(
        self,
        state: HistoryState,
        full_ND: Tensor,
        batch: Batch,
        order_N: Tensor,
        profile_UPD: Tensor | None,
        watch: Watch | None,
    ) -> Tensor:
        channels = [(self._layers(name), state.channels[name]) for name in self.stacks]
        seen = [self.sights[name].candidates(state.channels[name].event_C, batch, order_N) for name in self.stacks]
        profiles = [self._profile_keys(layers, profile_UPD, batch.impression_user[order_N]) for layers, _ in channels]
        targets = [full_ND for _ in channels]
        for depth in range(self.config.layers):
            if len(self.mixes):
                targets = self.mixes[depth](targets)
            if watch is not None:
                watched = zip(self.stacks, targets, channels, seen, profiles, strict=True)
                for name, x_ND, (layers, held), ranges, profile in watched:
                    watch(name, depth, layers[depth].weights(x_ND, held.keys[depth], ranges, profile[depth]))
            targets = [
                layers[depth].score(x_ND, held.keys[depth], held.values[depth], ranges, profile[depth])
                for x_ND, (layers, held), ranges, profile in zip(targets, channels, seen, profiles, strict=True)
            ]
        return torch.cat(targets, dim=-1)

    def _profile_keys(
        self, layers: list[GRABLayer], x_UPD: Tensor | None, user_N: Tensor
    ) -> list[tuple[Tensor, Tensor] | None]:
        """Of each layer of a channel: keys and values of every impression's profile tokens, None without any."""
        if x_UPD is None:
            return [None for _ in layers]
        found: list[tuple[Tensor, Tensor] | None] = []
        for depth, layer in enumerate(layers, 1):
            keys, x_UPD = layer.profile_keys(x_UPD, user_N, last=depth == len(layers))
            found.append(keys)
        return found

    def _layers(self, name: str) -> list[GRABLayer]:
        stack = self.stacks[name]
        assert isinstance(stack, nn.ModuleList)
        return [layer for layer in stack if isinstance(layer, GRABLayer)]

    def axes(self) -> dict[str, Axes]:
        return within("tokenizer", self.tokenizer.axes())

    def flops(self, batch: Batch) -> int:
        """From true visible pairs: keys, values, queries, bias scores per query, feed-forward, mixing, tokenizer."""
        order_N = by_visible_end(batch)
        total = self.tokenizer.flops(batch)
        for sight in self.sights.values():
            channel = sight.channel(batch)
            candidates = sight.candidates(channel.event_C, batch, order_N)
            total += self._channel_flops(channel, candidates, sight.behaviours.window) + self._profile_flops(batch)
        total += self.profile.flops(batch.num_users) if self.profile is not None else 0
        count, width = len(self.config.channels), self.config.width
        if len(self.mixes):
            gate = width * width * (count if self.config.mix is MixGate.JOINT else 1)
            total += len(self.mixes) * count * 2 * batch.num_impressions * gate
        return total + (self.mlp.flops(batch.num_impressions) if self.mlp is not None else 0)

    def state_bytes(self, batch: Batch) -> int:
        config, kept_T = self.config, kept_events(batch, self.looks_back)
        found = [sight.channel(batch).event_C for sight in self.sights.values()]
        channels = [(int(kept_T.sum() if e is None else kept_T[e].sum()), e is not None) for e in found]
        row = config.layers * 2 * config.heads * config.head_width * next(self.parameters()).element_size()
        return bytes_of_states(batch.num_users, int(kept_T.sum()), channels, row)

    def _channel_flops(self, channel: Channel, candidates: Ranges, window: int) -> int:
        config, events = self.config, channel.action_C.shape[0]
        impressions = candidates.lo.shape[0]
        inner = config.heads * config.head_width
        key_value = self._key_value_flops()
        codes = (window + 1 if config.use_position else 0) + (config.ages if config.use_time else 0)
        per_query = 2 * (2 * config.width * inner + inner * codes + 2 * config.width * config.ffn)
        per_pair = 2 * 2 * inner
        seen_N = int((candidates.hi - candidates.lo).sum()) + impressions
        total = config.layers * ((events + impressions) * key_value + impressions * per_query + seen_N * per_pair)
        if channel.seen is not None:
            seen_C = int((channel.seen.hi - channel.seen.lo).sum())
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
