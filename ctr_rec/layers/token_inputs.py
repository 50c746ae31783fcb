"""What every model of EST's table reads, made alike for all: feature tokens and behaviour sequences.

Legend: M distinct items, N impressions, L feature tokens, P behaviour tokens, S sequences, D token width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from ctr_rec.batch.batch import Batch
from ctr_rec.config import Config
from ctr_rec.errors import ConfigError
from ctr_rec.layers.behaviours import BehaviourSettings, BehaviourTokens, Sequences, distinct_sequences
from ctr_rec.layers.context import ContextSettings
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.feature_tokens import FeatureMLP, FeatureTokens
from ctr_rec.layers.fields import feature_width, join, layout, width
from ctr_rec.layers.history import EventEncoder, EventVectors
from ctr_rec.layers.layout import Axes, within
from ctr_rec.layers.retrieval import RetrievalSettings, Search, check_retrieval, retrieve
from ctr_rec.layers.similarity import similarities
from ctr_rec.layers.simtier import TIERS, SimTier
from ctr_rec.schema.table import SparseSpec

RETRIEVED = "retrieved"
SIMTIER = "simtier"


class TokenSettings(Config):
    """width: D, of every token. recent: channel with the user's newest behaviours (B_u).

    content: the item feature with frozen vectors, read by what compares contents; it is no feature token and no part of
    a behaviour unless side_information asks for that (EST, Table 2). None: the model reads no content.
    retrieval: how the behaviours that the candidate retrieves (B_c) are found, which then are `behaviours["retrieved"]`
    with an MLP of their own; None: there are none. simtier: one more feature token, `simtier`, of tiers of likeness
    between candidate and recent behaviours, and retrieved ones where there are.
    """

    width: int = Field(default=64, ge=1)
    recent: str = "recent"
    content: str | None = None
    side_information: bool = False
    behaviour: BehaviourSettings = Field(default_factory=BehaviourSettings)
    context: ContextSettings = Field(default_factory=ContextSettings)
    retrieval: RetrievalSettings | None = None
    simtier: bool = False


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


@dataclass(frozen=True)
class Read:
    """The behaviour sequences of a batch, by name. similarity_P: cosine of contents of each pair of candidate and
    retrieved behaviour, where they were found by it.
    """

    sequences: dict[str, Sequences]
    similarity_P: Tensor | None


class TokenInputs(nn.Module):
    """Feature tokens of each impression and behaviour tokens of each distinct sequence.

    names: of the feature tokens. Raises ConfigError for a channel or a feature that is not there.
    """

    def __init__(self, spec: SparseSpec, settings: TokenSettings, channels: tuple[str, ...], tower: str) -> None:
        super().__init__()
        self.settings = settings
        _check(settings, spec, channels, tower)
        hidden = set() if settings.side_information else _compared(settings)
        self.item = tuple(f for f in spec.item if f.name not in hidden)
        self._item = layout(spec, "item", self.item)
        item_width = width(spec, self.item)
        if item_width == 0:
            raise ConfigError(
                f"{tower} needs at least one item feature besides content vectors to tell candidates apart, got none; "
                "declare one in the log's schema or take it out of embedding.exclude"
            )
        self.features = FeatureTokens(spec, settings.context, self.item, settings.width)
        self.names = self.features.names + ((SIMTIER,) if settings.simtier else ())
        self.events = EventEncoder(spec, item_width, settings.behaviour.use_action)
        self._compared_width, self._by_content = 0, False
        if settings.retrieval is not None:
            compared = next(f for f in spec.item if f.name == settings.retrieval.feature)
            self._compared_width = feature_width(spec, compared)
            # A search by the very vectors that tiers count knows likeness already.
            self._by_content = settings.retrieval.by is Search.CONTENT and compared.name == settings.content
        sequences = (settings.recent,) if settings.retrieval is None else (settings.recent, RETRIEVED)
        self.behaviours = nn.ModuleDict(
            {
                name: BehaviourTokens(item_width, settings.behaviour, spec.ticks_per_second, settings.width)
                for name in sequences
            }
        )
        self.tiers = nn.ModuleDict({name: SimTier() for name in sequences if settings.simtier})
        self.tier_mlp = FeatureMLP(TIERS * len(sequences), settings.width) if settings.simtier else None

    def forward(self, embedded: Embedded, batch: Batch) -> Tokens:
        read, events = self.sequences(batch, embedded), self.event_vectors(embedded, batch)
        found = {
            name: Behaviours(self.maker(name)(events, sequences, batch), sequences)
            for name, sequences in read.sequences.items()
        }
        return Tokens(self.feature_tokens(embedded, batch, read), found)

    def event_vectors(self, embedded: Embedded, batch: Batch) -> EventVectors:
        """What behaviour tokens are made of."""
        return self.events(join(self.item, embedded.items, batch.items, batch.item.shape[0]), embedded, batch)

    def feature_tokens(self, embedded: Embedded, batch: Batch, read: Read) -> Tensor:
        """[N, L, D], in the order of `names`."""
        features_NLD = self.features(embedded, batch)
        if self.tier_mlp is None:
            return features_NLD
        return torch.cat([features_NLD, self.tier_mlp(self._tiers(read, batch)).unsqueeze(1)], dim=1)

    def maker(self, name: str) -> BehaviourTokens:
        """Of the tokens of one kind of sequence."""
        tokens = self.behaviours[name]
        assert isinstance(tokens, BehaviourTokens)
        return tokens

    def sequences(self, batch: Batch, embedded: Embedded | None = None) -> Read:
        """Without embeddings the newest events stand for those that a search by id would find."""
        found = {self.settings.recent: distinct_sequences(batch.histories[self.settings.recent])}
        if self.settings.retrieval is None:
            return Read(found, None)
        retrieval = retrieve(self.settings.retrieval, embedded, batch)
        found[RETRIEVED] = retrieval.sequences
        return Read(found, retrieval.similarity_P if self._by_content else None)

    def content(self, batch: Batch) -> Tensor:
        """Frozen content vectors of the batch's items, [M, C], of length 1 or zero where an item has none."""
        assert self.settings.content is not None
        return batch.items.vectors[self.settings.content]

    def _tiers(self, read: Read, batch: Batch) -> Tensor:
        """[N, tiers of all sequences]."""
        parts = []
        for name, tier in self.tiers.items():
            # Each impression's own copy of a shared sequence: likeness is the candidate's.
            own = read.sequences[name].of_impressions()
            similarity_P = read.similarity_P if name == RETRIEVED else None
            if similarity_P is None:
                item_P = batch.event_item[own.position_P]
                similarity_P = similarities(self.content(batch), batch.impression_item, item_P, own.offsets_S1)
            parts.append(tier(similarity_P, own.offsets_S1))
        return torch.cat(parts, dim=-1)

    def axes(self, tokens_meet: bool = False) -> dict[str, Axes]:
        """tokens_meet: feature tokens attend to each other, or are mixed by their number, so that one more changes
        every score whatever its weights. No layout names its MLP then, and `--grow` refuses it.
        """
        found = within("events", self.events.axes(self._item))
        found |= {} if tokens_meet else within("features", self.features.axes())
        for name in self.behaviours:
            found |= within(f"behaviours.{name}", self.maker(name).axes(self._item))
        return found

    def flops(self, batch: Batch, streamed: tuple[str, ...] = ()) -> int:
        """Without likeness of contents: what is retrieved, and its tiers, are known ahead (see `content_flops`).

        streamed: sequences whose tokens are made of all events, read or not.
        """
        total = self.features.flops(batch) + self.events.flops(batch.num_events)
        looks_T = self.events.looks(batch)
        for name, sequences in self.sequences(batch).sequences.items():
            read_P = looks_T if name in streamed else looks_T[sequences.position_P]
            total += self.maker(name).flops(len(read_P.unique()))
        return total + (self.tier_mlp.flops(batch.num_impressions) if self.tier_mlp is not None else 0)

    def content_flops(self, batch: Batch) -> dict[str, int]:
        """Of comparing vectors, each pair of candidate and event once: for retrieval, and for tiers of what was not
        compared by that.
        """
        found, retrieval = {}, self.settings.retrieval
        if retrieval is not None and retrieval.by is not Search.CATEGORY:
            pairs = len(batch.histories[retrieval.channel].values)
            found["retrieval"] = 2 * pairs * self._compared_width
        if self.settings.simtier:
            sequences = {
                n: of for n, of in self.sequences(batch).sequences.items() if n != RETRIEVED or not self._by_content
            }
            pairs = sum(len(of.rows_of_impressions()[0]) for of in sequences.values())
            found[SIMTIER] = 2 * pairs * self.content(batch).shape[1]
        return found


def _compared(settings: TokenSettings) -> set[str]:
    """Item features that are compared as they are, and are neither a token nor a part of one."""
    found = {settings.content} if settings.content is not None else set()
    if settings.retrieval is not None and settings.retrieval.by is Search.CONTENT:
        found.add(settings.retrieval.feature)
    return found


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
    if settings.simtier and settings.content is None:
        raise ConfigError(
            "tower.tokens.simtier counts likeness of contents, tower.tokens.content names none; name it, or set "
            "simtier to false"
        )
    if settings.retrieval is not None:
        if settings.recent == RETRIEVED:
            raise ConfigError(
                f"{tower}: the channel {RETRIEVED!r} cannot be tower.tokens.recent, which is how retrieved behaviours "
                "are called; give the channel another name"
            )
        check_retrieval(settings.retrieval, spec, channels, tower)
