"""SIM (Pi et al. 2020, arXiv 2006.05639): search a long history for what is like the candidate, then attend to that.

    lifelong channel ── GSU: the candidate's `most` ──► multi-head target attention ──┐
    recent channel ───────────────────────────────────► DIN's unit ───────────────────┼──► MLP
    feature tokens ───────────────────────────────────────────────────────────────────┘

GSU (general search unit), hard: the newest behaviours that share a category with the candidate; soft: those with the
largest cosine of id embeddings. Both by `tokens.retrieval`, and without any gradient: the paper's soft search learns
its embeddings by an auxiliary loss over the long history, here they are the model's own, as in MUSE's account of it
(arXiv 2512.07216). ESU (exact search unit): a behaviour is [e; e_time], e_time the embedding of the time between it and
the request; here the two are added behind the token's MLP, and log2 of the seconds is what is embedded [ours].

The paper's short-term part is DIEN; here it is DIN over the recent channel, as every model of the table has it.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from ctr_rec.layers.compressed import CompressedTokens
from ctr_rec.layers.heads import head_width
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.multi_head_target import MultiHeadTargetAttention
from ctr_rec.layers.target_attention import TargetAttentionSettings
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.baselines.mlp import MLPTower
from ctr_rec.models.tower import Filling, TowerConfig
from ctr_rec.ops.cross_attention import Backend
from ctr_rec.schema.table import SparseSpec


class SIMConfig(TowerConfig):
    """tokens.retrieval: the GSU, which must be named. attention: of DIN's unit over recent behaviours.

    heads: of the ESU. tokens.behaviour.use_age: off, without time intervals (an ablation of the paper).
    """

    filling: ClassVar[Filling] = Filling.POINTWISE
    tokens: TokenSettings = Field(default_factory=TokenSettings)
    attention: TargetAttentionSettings = Field(default_factory=TargetAttentionSettings)
    heads: int = Field(default=2, ge=1)
    mlp: MLPSettings = Field(default_factory=MLPSettings)
    backend: Backend = "auto"

    @model_validator(mode="after")
    def _fits(self) -> SIMConfig:
        head_width(self.heads, self.tokens.width)
        if self.tokens.retrieval is None:
            raise ValueError(
                "SIM searches a long history and tokens.retrieval names none; set it, by category for a hard search "
                "or by id for a soft one"
            )
        return self

    def build(self, spec: SparseSpec, channels: tuple[str, ...]) -> MLPTower:
        esu = MultiHeadTargetAttention(self.tokens.width, self.heads, self.backend)
        return MLPTower(CompressedTokens(spec, self.tokens, self.attention, channels, "SIM", esu), self.mlp)
