"""DIN's activation unit over a jagged history (Zhou et al. 2018, arXiv 1706.06978, section 4.3).

Legend: N impressions, T event vectors, P (impression, event) pairs, D width, H width of the first layer, C codes.
"""

from __future__ import annotations

from enum import Enum

import torch
from pydantic import Field
from torch import Tensor, nn

from ctr_rec.config import Config
from ctr_rec.layers.layout import Axes, Layout, named
from ctr_rec.ops.target_attention import AttentionMLP, PairCode, target_attention


class AttentionActivation(str, Enum):
    """Dice is absent on purpose: its batch statistics would let impressions see each other."""

    RELU = "relu"
    SILU = "silu"


class Normalize(str, Enum):
    """NONE keeps the intensity of interest (the paper's choice), SOFTMAX removes it."""

    NONE = "none"
    SOFTMAX = "softmax"


class TargetAttentionSettings(Config):
    """hidden: widths of the attention MLP, before its single output."""

    hidden: tuple[int, ...] = Field(default=(64, 32), min_length=1)
    activation: AttentionActivation = AttentionActivation.RELU
    normalize: Normalize = Normalize.NONE


class TargetAttention(nn.Module):
    """out_n = sum_p a_p h_p with a_p = MLP([t, h, t - h, t * h]); [N, D], zeros for an empty history.

    `first` is the plain layer over the four parts, so initial values and steps are those of the textbook model; the
    op takes it split: (Wt + Wd) t once per impression, (Wh - Wd) h once per event vector, Wp (t * h) per pair.

    codes: rows of each learnable table of pair codes, by name; their entries join the first layer's pre-activation and
    start at zero.
    """

    def __init__(self, width: int, settings: TargetAttentionSettings, codes: dict[str, int]) -> None:
        super().__init__()
        self.width = width
        self.settings = settings
        first = settings.hidden[0]
        self.first = nn.Linear(4 * width, first)
        pairs = zip(settings.hidden, settings.hidden[1:], strict=False)
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in pairs)
        self.out = nn.Linear(settings.hidden[-1], 1)
        self.codes = nn.ParameterDict({name: nn.Parameter(torch.zeros(rows, first)) for name, rows in codes.items()})

    def forward(
        self,
        target_ND: Tensor,
        event_TD: Tensor,
        position_P: Tensor,
        offsets_N1: Tensor,
        codes: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """codes: int64[P] per name given at construction, rows of that table."""
        codes = codes or {}
        return target_attention(
            target_ND,
            event_TD,
            position_P,
            offsets_N1,
            self._split(),
            pair_codes=[PairCode(codes[name], table) for name, table in self.codes.items()],
            activation=self.settings.activation.value,
            normalize=self.settings.normalize.value,
        )

    def axes(self, vector: Layout) -> dict[str, Axes]:
        """vector: what a target's, and so an event's, vector is made of; the first layer reads it in four roles."""
        parts = [named(role, vector) for role in ("target", "event", "difference", "product")]
        return {"first.weight": (None, sum(parts, ()))}

    def _split(self) -> AttentionMLP:
        target, event, difference, product = self.first.weight.t().split(self.width)
        return AttentionMLP(
            w_target_DH=target + difference,
            w_event_DH=event - difference,
            w_product_DH=product,
            b_H=self.first.bias,
            hidden=tuple((w.t(), b) for w, b in self._further_layers()),
            w_out_K=self.out.weight[0],
            b_out=self.out.bias[0],
        )

    def _further_layers(self) -> list[tuple[Tensor, Tensor]]:
        return [(layer.weight, layer.bias) for layer in self.hidden if isinstance(layer, nn.Linear)]

    def flops(self, impressions: int, events: int, pairs: int) -> int:
        """As computed: the first layer's target and event parts once per row, the product part per pair."""
        first, *rest = self.settings.hidden
        per_pair = self.width * first + sum(a * b for a, b in zip((first, *rest), (*rest, 1), strict=True)) + self.width
        return 2 * (self.width * first * (impressions + events) + pairs * per_pair)
