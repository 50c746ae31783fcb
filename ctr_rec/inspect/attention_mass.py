"""Where the candidates' attention goes: its mass by relative position, relative time and action of the key.

Exact sums of softmax weights, added up block by block. Heads of a layer are averaged. Beside each share stands the one
that equal weights would give, since there are more old keys than new ones.

Legend: H heads, N impressions, C events of a channel, q and k the queries and keys of one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.packed import by_visible_end, whole_seconds
from ctr_rec.layers.time import AGES
from ctr_rec.models.grab.tower import GRABTower
from ctr_rec.ops.prefix_attention import BlockWeights, time_bucket


@dataclass
class Mass:
    """Sums over impressions, float64. position: [longest window + 1], 1 is the newest event seen; time: [AGES], by
    floor(log2(1 + seconds)); action: [actions]; own: of the own key."""

    position: Tensor
    time: Tensor
    action: Tensor
    own: float = 0.0

    @classmethod
    def zeros(cls, positions: int, actions: int) -> Mass:
        position, time, action = (torch.zeros(size, dtype=torch.float64) for size in (positions, AGES, actions))
        return cls(position, time, action)

    def shares(self, impressions: int) -> Mass:
        """Of all attention: everything together is 1."""
        n = max(impressions, 1)
        return Mass(self.position / n, self.time / n, self.action / n, self.own / n)


@dataclass
class ChannelMass:
    """layers: one mass each. even: if the own key and every visible one had the same weight."""

    layers: list[Mass]
    even: Mass


@dataclass
class AttentionMass:
    """Of all impressions that were added, by channel."""

    tower: GRABTower
    num_actions: int
    ticks_per_second: int
    impressions: int = 0
    channels: dict[str, ChannelMass] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, behaviours in self.tower.config.channels.items():
            sizes = behaviours.window + 1, self.num_actions
            layers = [Mass.zeros(*sizes) for _ in range(self.tower.config.layers)]
            self.channels[name] = ChannelMass(layers, Mass.zeros(*sizes))

    @torch.no_grad()
    def add(self, embedded: Embedded, batch: Batch) -> None:
        """The impressions of a batch; a stand-in of weight 0 counts nothing. The tower must be in evaluation mode."""
        state = self.tower.encode_history(embedded, batch)
        order_N = by_visible_end(batch)
        views = {
            name: _View.of(batch, order_N, state.channels[name].event_C, self.ticks_per_second)
            for name in self.channels
        }
        ranges = {
            name: self.tower.sights[name].candidates(state.channels[name].event_C, batch, order_N)
            for name in self.channels
        }

        def watch(name: str, depth: int, blocks: Iterator[BlockWeights]) -> None:
            found, seen = self.channels[name], ranges[name]
            for block in blocks:
                pairs = views[name].pairs(block, seen.lo, seen.hi)
                weight_qk, own_q = block.weight_Hqk.mean(0).double(), block.own_Hq.mean(0).double()
                pairs.add(weight_qk, own_q, found.layers[depth])
                if depth == 0:
                    even_q = 1 / (1 + seen.hi - seen.lo)[block.query_q].double()
                    pairs.add(pairs.visible_qk * even_q.unsqueeze(1), even_q, found.even)

        self.tower.score(state, embedded, batch, watch)
        self.impressions += int((batch.weight > 0).sum())


@dataclass(frozen=True)
class _Pairs:
    """Of the queries and keys of one block: which pairs are visible, and the bucket of each."""

    real_q: Tensor
    visible_qk: Tensor
    position_qk: Tensor
    age_qk: Tensor
    action_k: Tensor

    def add(self, weight_qk: Tensor, own_q: Tensor, mass: Mass) -> None:
        weight_qk = weight_qk * self.real_q.unsqueeze(1)
        mass.position += _sums(self.position_qk, weight_qk, mass.position)
        mass.time += _sums(self.age_qk, weight_qk, mass.time)
        mass.action += _sums(self.action_k, weight_qk.sum(0), mass.action)
        mass.own += float((own_q * self.real_q).sum())


@dataclass(frozen=True)
class _View:
    """What buckets are made of: times in seconds of queries [N] and keys [C], and the keys' actions [C]."""

    real_N: Tensor
    time_N: Tensor
    time_C: Tensor
    action_C: Tensor

    @classmethod
    def of(cls, batch: Batch, order_N: Tensor, event_C: Tensor | None, ticks_per_second: int) -> _View:
        known_at, action = batch.event_known_at, batch.event_action
        if event_C is not None:
            known_at, action = known_at[event_C], action[event_C]
        time_N = whole_seconds(batch.impression_time[order_N], ticks_per_second)
        real_N = (batch.weight[order_N] > 0).double()
        return cls(real_N, time_N, whole_seconds(known_at, ticks_per_second), action)

    def pairs(self, block: BlockWeights, lo_N: Tensor, hi_N: Tensor) -> _Pairs:
        start, count = block.key_start, block.weight_Hqk.shape[2]
        keys, rows = slice(start, start + count), block.query_q
        key_k = torch.arange(start, start + count, device=rows.device)
        lo_q1, hi_q1 = lo_N[rows].unsqueeze(1), hi_N[rows].unsqueeze(1)
        age_qk = time_bucket(self.time_N[rows].unsqueeze(1) - self.time_C[keys], AGES)
        visible_qk = (key_k >= lo_q1) & (key_k < hi_q1)
        position_qk = torch.where(visible_qk, hi_q1 - key_k, 0)  # a hidden pair weighs nothing, wherever it is counted
        return _Pairs(self.real_N[rows], visible_qk, position_qk, age_qk, self.action_C[keys])


def _sums(bucket: Tensor, weight: Tensor, like: Tensor) -> Tensor:
    return torch.bincount(bucket.flatten(), weights=weight.flatten(), minlength=like.shape[0]).cpu()
