"""Settings of EST; `tower.ESTConfig` is these with the way to build it. Each mechanism that the paper's tables take
away has a field whose other position is that row.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar

from pydantic import Field, model_validator
from torch import nn

from ctr_rec.errors import ConfigError
from ctr_rec.layers.heads import head_width
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.tower import Filling, TowerConfig
from ctr_rec.ops.cross_attention import Backend


class Norm(str, Enum):
    """Over a token's width, with a gain; LAYER takes the mean away and adds a bias besides."""

    RMS = "rms"
    LAYER = "layer"

    def module(self, width: int) -> nn.Module:
        return nn.RMSNorm(width, eps=1e-6) if self is Norm.RMS else nn.LayerNorm(width)


class ESTSettings(TowerConfig):
    """layers S and tokens.width d. heads: 1, as in the formula; each has width d / heads and scale of its root.

    Not stated in the paper, and how it is read here [all ours]: `norm` is RMS, and one set of gains serves all feature
    tokens; `ffn`, the inner width of both SwiGLU networks over d, is 2; projections and networks have no bias;
    `dropout` stands behind attention and FFN; no norm stands before the head; `mlp` is the head's.

    csa: off, behaviours pass to the FFN as they are. neighbours: K of it.
    Retrieved behaviours (B_c) and SimTier are switched by `tokens`. attention: the backend, scores are the same.
    """

    filling: ClassVar[Filling] = Filling.POINTWISE
    layers: int = Field(default=2, ge=1)
    tokens: TokenSettings = Field(default_factory=TokenSettings)
    heads: int = Field(default=1, ge=1)
    ffn: float = Field(default=2.0, gt=0)
    norm: Norm = Norm.RMS
    csa: bool = True
    neighbours: int = Field(default=5, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    mlp: MLPSettings = Field(default_factory=MLPSettings)
    attention: Backend = "auto"

    @property
    def inner(self) -> int:
        """Inner width of the FFNs."""
        return max(1, round(self.ffn * self.tokens.width))

    @model_validator(mode="after")
    def _heads_divide(self) -> ESTSettings:
        head_width(self.heads, self.tokens.width)
        return self

    @model_validator(mode="after")
    def _csa_reads_content(self) -> ESTSettings:
        if self.csa and self.tokens.content is None:
            raise ConfigError(
                "tower.csa compares contents, tower.tokens.content names none; name it, or set tower.csa to false"
            )
        return self
