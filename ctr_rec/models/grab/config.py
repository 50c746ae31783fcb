"""Settings of GRAB; `tower.GRABConfig` is these with the way to build it. Each mechanism that the
paper's Table 3 takes away has a field whose other position is that row.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar

from pydantic import Field, model_validator

from ctr_rec.config import Config
from ctr_rec.errors import ConfigError
from ctr_rec.layers.context import ContextSettings
from ctr_rec.layers.history import ACTION_STD
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.time import AGES
from ctr_rec.models.tower import Filling, TowerConfig
from ctr_rec.ops.prefix_attention import Backend


class ActionRole(str, Enum):
    """Where a past event says what the user did with it: in its token, in the attention's bias, in both, nowhere."""

    TOKEN = "token"
    BIAS = "bias"
    BOTH = "both"
    NEITHER = "neither"


class Views(str, Enum):
    """Which view of an event is a key, and which of a candidate is a query (section on heterogeneous tokens).

    BOTH: keys are partial tokens with the action, queries full tokens. PARTIAL: the query is the partial view of the
    candidate, without an action: the fields a history token has, as far as they are known at the request, so no
    profile, no counters, no clock. FULL: keys are full views with the action, queries separate full copies without.

    A full view of an event holds item, request fields, profile, hour and weekday, then what is known after it and the
    action [ours]. Not its counters, which a batch carries for impressions alone, nor its gap to the event before, which
    may lie beyond the reach; both are zeros. Its clock is the event's own time, since its request's is not carried.
    """

    BOTH = "both"
    PARTIAL = "partial"
    FULL = "full"


class MixGate(str, Enum):
    """Whence the gate of a channel's message to the others' target tokens: from that channel alone, or from all.

    The paper gives no formula [both ours]; its Figure 2 draws one gate layer that reads all. NONE: no mixing.
    """

    OWN = "own"
    JOINT = "joint"
    NONE = "none"


class Behaviours(Config):
    """One channel: a subset of the user's events with a stack of its own.

    actions: codes of its events; None for all. window: L_w, how many of its visible events a token sees at most.
    seconds: W_t, how far back in time; None for ever. Both windows hold at once [ours; the paper says "combined"].
    """

    actions: tuple[int, ...] | None = None
    window: int = Field(default=256, ge=1)
    seconds: int | None = Field(default=None, ge=1)


class GRABSettings(TowerConfig):
    """width d, heads, head_width; ffn: inner width of the feed-forward part.

    span: how many events of the whole stream any channel looks back at most, so that layers * span events of context
    give the same score wherever batches are cut. latent: width of the compressed keys and values ("MLA" of Figure 2),
    None for plain projections. use_position, use_time: relative position and time of the bias. ages: log2 buckets of
    seconds. attention: the backend that computes it, see ops/prefix_attention/choose.py; scores are the same.
    shared_tokenizer: item map and gated half are one for both views (the paper has one dense tokenizer), so
    that a candidate and an event of the same item are alike. start_alike: query maps begin as copies of key maps, so
    that attention begins as likeness of tokens [ours]: without it, it comes out of a plateau epochs later. action_std:
    deviation of action embeddings at the start, in tokens and in the bias [ours]; where an event's action and its
    item's likeness count as a product, each is learnt as fast as the other is large, so that two small ones are slow.
    mlp: between the channels' target vectors and the head; None is the paper's linear head. profile_tokens: each
    profile feature is a token at the head of the user's segment too, see profile.py; `context.use_profile` says apart
    from that whether full tokens hold the profile as fields.
    """

    filling: ClassVar[Filling] = Filling.PACKED
    reads_channels: ClassVar[bool] = False
    width: int = Field(default=64, ge=1)
    layers: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)
    head_width: int = Field(default=16, ge=1)
    ffn: int = Field(default=128, ge=1)
    latent: int | None = Field(default=None, ge=1)
    span: int = Field(default=256, ge=1)
    channels: dict[str, Behaviours] = Field(default_factory=lambda: {"all": Behaviours()}, min_length=1)
    views: Views = Views.BOTH
    profile_tokens: bool = False
    mix: MixGate = MixGate.OWN
    action: ActionRole = ActionRole.BOTH
    use_position: bool = True
    use_time: bool = True
    ages: int = Field(default=AGES, ge=1)
    shared_tokenizer: bool = False
    start_alike: bool = False
    action_std: float = Field(default=ACTION_STD, gt=0)
    attention: Backend = "auto"
    dropout: float = Field(default=0.1, ge=0, lt=1)
    context: ContextSettings = Field(default_factory=ContextSettings)
    mlp: MLPSettings | None = None

    @model_validator(mode="after")
    def _sharing_has_an_effect(self) -> GRABSettings:
        if self.shared_tokenizer and self.views is not Views.BOTH:
            raise ConfigError(
                f"tower.shared_tokenizer=True has no effect with tower.views={self.views.value}, which makes tokens of "
                "one view alone; remove it"
            )
        return self

    @model_validator(mode="after")
    def _windows_fit(self) -> GRABSettings:
        for name, channel in self.channels.items():
            if channel.window > self.span:
                raise ConfigError(
                    f"tower.channels.{name}.window={channel.window} is larger than tower.span={self.span}, which "
                    f"bounds every channel; raise span to {channel.window} or lower the window"
                )
        return self

    @model_validator(mode="after")
    def _partial_views_are_bare(self) -> GRABSettings:
        if self.views is not Views.PARTIAL:
            return self
        if self.profile_tokens:
            raise ConfigError(
                "tower.profile_tokens=True needs queries that see them, expected tower.views 'both' or 'full', got "
                "'partial'; profile tokens are visible to full tokens only"
            )
        if self.context != ContextSettings():
            raise ConfigError(
                "tower.context has no effect with tower.views='partial', whose queries hold no context; expected its "
                f"defaults, got {self.context.model_dump(exclude_defaults=True)}; take it out of the recipe"
            )
        return self

    @property
    def reach(self) -> int:
        return self.layers * self.span

    @property
    def token_says_action(self) -> bool:
        return self.action in (ActionRole.TOKEN, ActionRole.BOTH)

    @property
    def bias_says_action(self) -> bool:
        return self.action in (ActionRole.BIAS, ActionRole.BOTH)
