"""How batches are cut from a prepared log."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from ctr_rec.config import Config
from ctr_rec.errors import ConfigError


class Channel(Config):
    """One view of a user's history.

    actions: codes of the events it holds; None for all. last: at most so many, the most recent ones.
    """

    actions: tuple[int, ...] | None = None
    last: int = Field(default=100, ge=1)

    @field_validator("actions")
    @classmethod
    def _some_action(cls, actions: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if actions is not None and (not actions or len(set(actions)) != len(actions)):
            raise ConfigError(f"a channel's actions must be distinct and at least one, got {actions}; None means all")
        return actions


class Pointwise(Config):
    """Independent impressions, each with its own view of the history.

    impressions: global batch size, nearly met. history: newest visible events, of whatever channel, that an impression
    is given: what a channel would read beyond them is left out. None: all.
    """

    impressions: int = Field(default=4096, ge=1)
    history: int | None = Field(default=None, ge=1)


class Packed(Config):
    """Whole users, all their impressions in one pass.

    tokens: global batch size, never exceeded, in history events plus impressions.
    context: how many events back an impression reaches (layers x window of the tower). A user cut by a batch's end
        brings that many events along, and older ones are left out. None: a quarter of `tokens`.
    """

    tokens: int = Field(default=16384, ge=3)
    context: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _context_leaves_room(self) -> Packed:
        if 2 * self.reach >= self.tokens:
            raise ConfigError(
                f"batches.context must be less than half of batches.tokens, got context {self.reach} of "
                f"{self.tokens} tokens; raise tokens to {2 * self.reach + 1} or more"
            )
        return self

    @property
    def most_tokens(self) -> int:
        """Of a batch."""
        return self.tokens

    @property
    def reach(self) -> int:
        """Newest visible events that every impression is sure to be given; in the middle of a user it sees more."""
        return self.context if self.context is not None else max(1, self.tokens // 4)


class Alone(Config):
    """Independent impressions for towers that read whole users: each has its own copy of its history.

    Its copy is a user of its own with one impression and no other event, so a cut holds in every layer: what came
    before it reaches the impression by no path. A batch of Packed costs each event once, one of these once for every
    impression that is given it.

    impressions: global batch size, nearly met. history: newest visible events that an impression is given. None: all.
    tokens: global batch size, never exceeded, in history events plus impressions. The number of batches rests on
    counts alone, so every impression is taken for one with a whole `history`. None: bounded by impressions alone.
    """

    filling: Literal["alone"] = "alone"
    impressions: int = Field(default=512, ge=1)
    history: int | None = Field(default=None, ge=1)
    tokens: int | None = Field(default=None, ge=2)

    @model_validator(mode="after")
    def _tokens_hold_one(self) -> Alone:
        if self.tokens is not None and self.history is None:
            raise ConfigError(
                f"batches.tokens={self.tokens} cannot be kept where batches.history is null: an impression may then "
                "have any number of events; set batches.history (the tower's reach loses nothing)"
            )
        if self.tokens is not None and self.history is not None and self.tokens <= self.history:
            raise ConfigError(
                f"batches.tokens must hold one impression with its history, got {self.tokens} for history "
                f"{self.history}; raise tokens to {self.history + 1} or more"
            )
        return self

    @property
    def most(self) -> int | None:
        """Impressions that a batch may hold, so that its tokens fit whatever the histories; None: not bounded."""
        return None if self.tokens is None or self.history is None else self.tokens // (self.history + 1)

    @property
    def most_tokens(self) -> int | None:
        """Of a batch, nearly; None: not known."""
        if self.history is None:
            return None
        return min(self.impressions, self.most or self.impressions) * (self.history + 1)


Batches = Pointwise | Packed | Alone


class DataConfig(Config):
    """What is read and in which portions.

    log: folder of a prepared log. label: name of the label to learn. channels: by name; in packed batches optional.
    buffer_row_groups: row groups shuffled together and held in memory. workers: collating threads, 0 for none.
    prefetch: batches made ahead, or some more, since packed ones are made several at a time. shuffle: off, the order
    is that of the files (evaluation).
    """

    log: str
    label: str
    batches: Batches = Pointwise()
    channels: dict[str, Channel] = Field(default={})
    buffer_row_groups: int = Field(default=16, ge=1)
    workers: int = Field(default=1, ge=0)
    prefetch: int = Field(default=4, ge=1)
    shuffle: bool = True

    @model_validator(mode="after")
    def _history_is_read(self) -> DataConfig:
        if isinstance(self.batches, Pointwise) and self.batches.history is not None and not self.channels:
            raise ConfigError(
                f"batches.history={self.batches.history} would have no effect: pointwise batches read history through "
                "data.channels, and there is none; add one, or set batches.history to null"
            )
        return self
