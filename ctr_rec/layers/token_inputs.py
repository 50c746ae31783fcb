"""What every model of EST's table reads, made alike for all: feature tokens and behaviour sequences.

Legend: M distinct items, N impressions, L feature tokens, P behaviour tokens, S sequences, D token width.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field
from torch import Tensor, nn

from ctr_rec.batch.batch import Batch
from ctr_rec.config import Config
from ctr_rec.errors import ConfigError
from ctr_rec.layers.behaviours import BehaviourSettings, BehaviourTokens, Sequences, distinct_sequences
from ctr_rec.layers.context import ContextSettings
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.feature_tokens import FeatureTokens
from ctr_rec.layers.fields import join, layout, width
from ctr_rec.layers.history import EventEncoder
from ctr_rec.layers.layout import Axes, within
from ctr_rec.schema.table import SparseSpec


class TokenSettings(Config):
    """width: D, of every token. recent: channel with the user's newest behaviours (B_u).

    content: the item feature with frozen vectors, read by what compares contents; it is no feature token and no part of
    a behaviour unless side_information asks for that (EST, Table 2). None: the model reads no content.
    """

    width: int = Field(default=64, ge=1)
    recent: str = "recent"
    content: str | None = None
    side_information: bool = False
    behaviour: BehaviourSettings = Field(default_factory=BehaviourSettings)
    context: ContextSettings = Field(default_factory=ContextSettings)


@dataclass(frozen=True)
class Behaviours:
    """Tokens of one kind of sequence: x_PD belongs to the places of `sequences`."""

    x_PD: Tensor
    sequences: Sequences


@dataclass(frozen=True)
class Tokens:
    """features_NLD: one token per raw feature. behaviours: by the name of the sequence."""

    features_NLD: Tensor
    behaviours: dict[str, Behaviours]


class TokenInputs(nn.Module):
    """Feature tokens of each impression and behaviour tokens of each distinct sequence.

    names: of the feature tokens. Raises ConfigError for a channel or a content feature that is not there.
    """

    def __init__(self, spec: SparseSpec, settings: TokenSettings, channels: tuple[str, ...], tower: str) -> None:
        super().__init__()
        self.settings = settings
        _check(settings, spec, channels, tower)
        hidden = () if settings.side_information else (settings.content,)
        self.item = tuple(f for f in spec.item if f.name not in hidden)
        self._item = layout(spec, "item", self.item)
        item_width = width(spec, self.item)
        if item_width == 0:
            raise ConfigError(
                f"{tower} needs at least one item feature besides content vectors to tell candidates apart, got none; "
                "declare one in the log's schema or take it out of embedding.exclude"
            )
        self.features = FeatureTokens(spec, settings.context, self.item, settings.width)
        self.names = self.features.names
        self.events = EventEncoder(spec, item_width, settings.behaviour.use_action)
        self.behaviours = nn.ModuleDict(
            {settings.recent: BehaviourTokens(item_width, settings.behaviour, spec.ticks_per_second, settings.width)}
        )

    def forward(self, embedded: Embedded, batch: Batch) -> Tokens:
        item_MD = join(self.item, embedded.items, batch.items, batch.item.shape[0])
        events = self.events(item_MD, embedded, batch)
        found = {}
        for name, tokens in self.behaviours.items():
            sequences = distinct_sequences(batch.histories[name])
            found[name] = Behaviours(tokens(events, sequences, batch), sequences)
        return Tokens(self.features(embedded, batch), found)

    def axes(self) -> dict[str, Axes]:
        found = within("events", self.events.axes(self._item))
        for name, tokens in self.behaviours.items():
            assert isinstance(tokens, BehaviourTokens)
            found |= within(f"behaviours.{name}", tokens.axes(self._item))
        return found

    def flops(self, batch: Batch) -> int:
        total = self.features.flops(batch) + self.events.flops(batch.num_events)
        for tokens in self.behaviours.values():
            assert isinstance(tokens, BehaviourTokens)
            total += tokens.flops(batch.num_events)
        return total


def _check(settings: TokenSettings, spec: SparseSpec, channels: tuple[str, ...], tower: str) -> None:
    if settings.recent not in channels:
        raise ConfigError(
            f"{tower} reads the channel {settings.recent!r}, data.channels has {sorted(channels) or 'none'}; add it, "
            "or name another in tower.tokens.recent"
        )
    vectors = [f.name for f in spec.item if f.dim is not None]
    if settings.content is not None and settings.content not in vectors:
        raise ConfigError(
            f"{tower}: tower.tokens.content names {settings.content!r}, the log's vector features of items are "
            f"{vectors or 'none'}; prepare the log with content vectors, or set it to null"
        )
    if settings.side_information and settings.content is None:
        raise ConfigError("tower.tokens.side_information would have no effect without tower.tokens.content; name it")
