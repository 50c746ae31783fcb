"""Dense layers: an MLP with activation, dropout and an optional LayerNorm per layer.

No batch normalisation: its statistics mix impressions, so a prediction would depend on its neighbours in the batch.
"""

from __future__ import annotations

from enum import Enum
from itertools import pairwise

from pydantic import Field
from torch import Tensor, nn

from ctr_rec.config import Config
from ctr_rec.layers.layout import Axes, Layout


class Activation(str, Enum):
    RELU = "relu"
    SILU = "silu"
    GELU = "gelu"
    TANH = "tanh"

    def module(self) -> nn.Module:
        return {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "tanh": nn.Tanh}[self.value]()


class MLPSettings(Config):
    """hidden: widths of the layers, the last one is the output. dropout: after each activation."""

    hidden: tuple[int, ...] = Field(default=(128, 64), min_length=1)
    activation: Activation = Activation.RELU
    dropout: float = Field(default=0.1, ge=0, lt=1)
    layer_norm: bool = Field(default=False, description="normalise before each activation")


class MLP(nn.Module):
    """[rows, in_width] -> [rows, out_width]; every layer is Linear, (LayerNorm,) activation, dropout."""

    def __init__(self, in_width: int, settings: MLPSettings) -> None:
        super().__init__()
        self.widths = (in_width, *settings.hidden)
        self.out_width = settings.hidden[-1]
        layers: list[nn.Module] = []
        for before, after in pairwise(self.widths):
            layers.append(nn.Linear(before, after))
            if settings.layer_norm:
                layers.append(nn.LayerNorm(after))
            layers.append(settings.activation.module())
            if settings.dropout > 0:
                layers.append(nn.Dropout(settings.dropout))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def axes(self, inputs: Layout) -> dict[str, Axes]:
        """Of the parameters that are as wide as the input."""
        return {"layers.0.weight": (None, inputs)}

    def flops(self, rows: int) -> int:
        """Of the matrix products, two per multiply-add."""
        return 2 * rows * sum(a * b for a, b in pairwise(self.widths))
