"""How batches are cut from a prepared log."""

from __future__ import annotations

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
    """Independent impressions, each with its own view of the history. impressions: global batch size, nearly met."""

    impressions: int = Field(default=4096, ge=1)


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
    def reach(self) -> int:
        """Newest visible events that every impression is sure to be given; in the middle of a user it sees more."""
        return self.context if self.context is not None else max(1, self.tokens // 4)


class DataConfig(Config):
    """What is read and in which portions.

    log: folder of a prepared log. label: name of the label to learn. channels: by name; in packed batches optional.
    buffer_row_groups: row groups shuffled together and held in memory. workers: collating threads, 0 for none.
    prefetch: batches made ahead, or some more, since packed ones are made several at a time. shuffle: off, the order
    is that of the files (evaluation).
    """

    log: str
    label: str
    batches: Pointwise | Packed = Pointwise()
    channels: dict[str, Channel] = Field(default={})
    buffer_row_groups: int = Field(default=16, ge=1)
    workers: int = Field(default=1, ge=0)
    prefetch: int = Field(default=4, ge=1)
    shuffle: bool = True
