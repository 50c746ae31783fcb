"""HSTU for ranking (Zhai et al. 2024, arXiv 2402.17152, sections 3.1 and 3.2) over whole users.

Every history event is one token that carries its item and its action; every impression is one more query that stands
directly behind what it sees, with a key of its own and no action. All impressions of a user share one pass.

    history of one user    a b c d            event_end   = 1 2 3 4
    impressions            x y                visible_end = 2 4:  x attends to a b x, y to a b c d y

Legend: T history tokens, N impressions, M distinct items, D width, H heads, E width of a head, I = H * E.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.context import Context, ContextSettings
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.fields import join, layout
from ctr_rec.layers.history import EventEncoder
from ctr_rec.layers.layout import Axes, within
from ctr_rec.layers.mlp import MLP, MLPSettings
from ctr_rec.layers.packed import Ranges, by_visible_end, whole_seconds
from ctr_rec.layers.pooled import item_width
from ctr_rec.layers.time import AGES
from ctr_rec.models.state import ChannelState, HistoryState, bytes_of_states, kept_events
from ctr_rec.models.tower import Filling, SplitTower, TowerConfig
from ctr_rec.ops.jagged import gather, segment_of_row
from ctr_rec.ops.prefix_attention import Backend, Pairs, RelativeBias, prefix_attention
from ctr_rec.schema.table import SparseSpec

_EPS = 1e-6


class AttentionNorm(str, Enum):
    """What the sum over visible keys is divided by. Never a length of the batch: that would couple users."""

    CONSTANT = "constant"
    VISIBLE_COUNT = "visible_count"


class HSTUConfig(TowerConfig):
    """window: how many events a token or an impression sees at most; layers * window is the reach.

    use_order, use_age: relative bias by position and by log2 of elapsed seconds, the latter in `ages` buckets.
    use_action: history tokens say what the user did. context_at_end: context also joins the state before the last
    MLP, not only the candidate's token. attention: which backend computes it, see ops/prefix_attention/choose.py.
    """

    filling: ClassVar[Filling] = Filling.PACKED
    reads_channels: ClassVar[bool] = False
    width: int = Field(default=64, ge=1)
    layers: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)
    head_width: int = Field(default=16, ge=1)
    window: int = Field(default=256, ge=1)
    norm: AttentionNorm = AttentionNorm.CONSTANT
    dropout: float = Field(default=0.1, ge=0, lt=1)
    mlp: MLPSettings = Field(default_factory=lambda: MLPSettings(hidden=(64,)))
    context: ContextSettings = Field(default_factory=ContextSettings)
    context_at_end: bool = True
    use_action: bool = True
    use_age: bool = True
    use_order: bool = True
    ages: int = Field(default=AGES, ge=1)
    attention: Literal["auto", "blocked", "fbgemm", "reference"] = "auto"

    @property
    def reach(self) -> int:
        return self.layers * self.window

    def build(self, spec: SparseSpec, channels: tuple[str, ...]) -> HSTUTower:
        return HSTUTower(spec, self)


class HSTULayer(nn.Module):
    """X <- X + W_o dropout(norm(A V) * U), with U, V, Q, K = SiLU(norm(X) W); one set of weights for all tokens."""

    def __init__(self, config: HSTUConfig) -> None:
        super().__init__()
        self.heads, self.norm, self.window = config.heads, config.norm, config.window
        self.attention: Backend = config.attention
        self.inner = config.heads * config.head_width
        self.scale = config.head_width**-0.5
        self.kvqu = nn.Linear(config.width, 4 * self.inner, bias=False)
        self.out = nn.Linear(self.inner, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.position_PH = _bias_table(config.window + 1, config.heads) if config.use_order else None
        self.time_BH = _bias_table(config.ages, config.heads) if config.use_age else None
        nn.init.xavier_uniform_(self.kvqu.weight)
        nn.init.xavier_uniform_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def encode(self, x_TD: Tensor, seen: Ranges | None) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values of the events, [T, H, E], and their next tokens; seen: None in the last layer.

        Nobody reads the next tokens there, so they are the old ones.
        """
        if seen is None:
            k, v = self._project(x_TD, 2)
            return k, v, x_TD
        k, v, q, u = self._project(x_TD, 4)
        return k, v, self._update(x_TD, self._attend(q, k, v, seen), u)

    def score(self, x_ND: Tensor, k: Tensor, v: Tensor, seen: Ranges) -> Tensor:
        """The next tokens of the impressions, against keys and values of events and their own."""
        own_k, own_v, q, u = self._project(x_ND, 4)
        return self._update(x_ND, self._attend(q, k, v, seen, own_k, own_v), u)

    def _project(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """The first `parts` of K, V, Q, U, each [rows, H, E]."""
        normed = functional.layer_norm(x, x.shape[-1:], eps=_EPS)
        joint = functional.silu(functional.linear(normed, self.kvqu.weight[: parts * self.inner]))
        return joint.unflatten(-1, (parts, self.heads, -1)).unbind(1)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, seen: Ranges, own_k: Tensor | None = None, own_v: Tensor | None = None
    ) -> Tensor:
        return prefix_attention(
            q,
            k,
            v,
            seen.lo,
            seen.hi,
            own_k,
            own_v,
            RelativeBias(position_PH=self.position_PH, time_BH=self.time_BH),
            kind="silu",
            scale=self.scale,
            norm=self.norm.value,
            norm_constant=float(self.window),
            plan=seen.plan,
            backend=self.attention,
        )

    def _update(self, x: Tensor, attended: Tensor, u: Tensor) -> Tensor:
        normed = functional.layer_norm(attended.flatten(1), (self.inner,), eps=_EPS)
        return x + self.out(self.dropout(normed * u.flatten(1)))


def _bias_table(rows: int, heads: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, heads) * 0.02)


class HSTUTower(SplitTower):
    """[N, out_width]: the candidates' last state, with the context beside it, through a small MLP."""

    def __init__(self, spec: SparseSpec, config: HSTUConfig) -> None:
        super().__init__()
        self.config = config
        self.item = spec.item
        self.ticks_per_second = spec.ticks_per_second
        self.item_width = item_width(spec, "HSTU")
        self._item = layout(spec, "item", spec.item)
        self.project_item = nn.Linear(self.item_width, config.width)
        self.events = EventEncoder(spec, config.width, config.use_action)
        self.context = Context(spec, config.context)
        self.project_context = nn.Linear(self.context.width, config.width) if self.context.width else None
        self.history_norm = nn.LayerNorm(config.width, eps=_EPS)
        self.candidate_norm = nn.LayerNorm(config.width, eps=_EPS)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(HSTULayer(config) for _ in range(config.layers))
        self.mlp = MLP(config.width + (self.context.width if config.context_at_end else 0), config.mlp)
        self.out_width = self.mlp.out_width

    @property
    def looks_back(self) -> int:
        return self.config.window

    def encode_history(self, embedded: Embedded, batch: Batch) -> HistoryState:
        events = self.events(self._items(embedded, batch), embedded, batch)
        x_TD = self.dropout(self.history_norm(events.per_event()))
        seen = self._history_ranges(batch) if len(self.layers) > 1 else None
        keys, values = [], []
        for depth, layer in enumerate(self._layers(), 1):
            k, v, x_TD = layer.encode(x_TD, seen if depth < len(self.layers) else None)
            keys.append(k)
            values.append(v)
        return HistoryState.of(batch, {"all": ChannelState(None, tuple(keys), tuple(values))})

    def score(self, state: HistoryState, embedded: Embedded, batch: Batch) -> Tensor:
        context_NC = self.context(embedded, batch)
        x_ND = gather(self._items(embedded, batch), batch.impression_item)
        if self.project_context is not None:
            x_ND = x_ND + self.project_context(context_NC)
        order_N = by_visible_end(batch)
        x_ND = self.dropout(self.candidate_norm(x_ND))[order_N]
        seen, held = self._candidate_ranges(batch, order_N), state.channels["all"]
        for layer, k, v in zip(self._layers(), held.keys, held.values, strict=True):
            x_ND = layer.score(x_ND, k, v, seen)
        state_ND = functional.layer_norm(x_ND, x_ND.shape[-1:], eps=_EPS)[order_N.argsort()]
        return self.mlp(torch.cat([state_ND, context_NC], dim=-1) if self.config.context_at_end else state_ND)

    def _items(self, embedded: Embedded, batch: Batch) -> Tensor:
        return self.project_item(join(self.item, embedded.items, batch.items, batch.item.shape[0]))

    def _layers(self) -> list[HSTULayer]:
        return [layer for layer in self.layers if isinstance(layer, HSTULayer)]

    def _history_ranges(self, batch: Batch) -> Ranges:
        start_T = batch.event_offsets[segment_of_row(batch.event_offsets)]
        return self._ranges(start_T, batch.event_end, batch.event_known_at, batch)

    def _candidate_ranges(self, batch: Batch, order_N: Tensor) -> Ranges:
        start_N = batch.event_offsets[batch.impression_user[order_N]]
        return self._ranges(start_N, batch.visible_end[order_N], batch.impression_time[order_N], batch)

    def _ranges(self, start: Tensor, end: Tensor, query_time: Tensor, batch: Batch) -> Ranges:
        lo = torch.maximum(start, end - self.config.window)
        plan = Pairs(
            lo_Q=lo,
            hi_Q=end,
            num_keys=batch.num_events,
            num_positions=self.config.window + 1 if self.config.use_order else 0,
            num_buckets=self.config.ages if self.config.use_age else 0,
            query_time_Q=whole_seconds(query_time, self.ticks_per_second),
            key_time_T=whole_seconds(batch.event_known_at, self.ticks_per_second),
        )
        return Ranges(lo, end, plan)

    def axes(self) -> dict[str, Axes]:
        found: dict[str, Axes] = {"project_item.weight": (None, self._item)}
        found |= within("events", self.events.axes(None))
        if self.project_context is not None:
            found |= {"project_context.weight": (None, self.context.layout), "project_context.bias": (None,)}
        if self.config.context_at_end:
            found |= within("mlp", self.mlp.axes((("state", self.config.width), *self.context.layout)))
        return found

    def flops(self, batch: Batch) -> int:
        """From the true number of visible pairs; the last layer projects only keys and values of the history."""
        config, events, impressions = self.config, batch.num_events, batch.num_impressions
        inner = config.heads * config.head_width
        start_N = batch.event_offsets[batch.impression_user]
        seen_N = (batch.visible_end - start_N).clamp(max=config.window)
        seen_T = (batch.event_end - batch.event_offsets[segment_of_row(batch.event_offsets)]).clamp(max=config.window)
        per_token, per_pair = 2 * config.width * 5 * inner, 2 * 2 * inner
        candidates = impressions * per_token + (int(seen_N.sum()) + impressions) * per_pair
        history = events * per_token + int(seen_T.sum()) * per_pair
        total = config.layers * candidates + (config.layers - 1) * history + events * 2 * config.width * 2 * inner
        total += 2 * 2 * batch.item.shape[0] * self.item_width * config.width  # for histories and for candidates
        total += 2 * impressions * self.context.width * config.width
        return total + self.events.flops(events) + self.mlp.flops(impressions)

    def state_bytes(self, batch: Batch) -> int:
        config, events = self.config, int(kept_events(batch, self.looks_back).sum())
        row = config.layers * 2 * config.heads * config.head_width * next(self.parameters()).element_size()
        return bytes_of_states(batch.num_users, events, [(events, False)], row)
