"""Explicit feature crosses of DCN-V2 (Wang et al. 2021, section 3.2).

Legend: N impressions, D width of the input, R rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctr_rec.layers.layout import Axes, Layout, within


class CrossLayer(nn.Module):
    """x_{l+1} = x_l + x_0 * (W_l x_l + b_l); with a rank, W_l = U_l V_l."""

    def __init__(self, width: int, rank: int | None = None) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False) if rank is not None else None
        self.up = nn.Linear(width if rank is None else rank, width)

    def forward(self, x0_ND: Tensor, x_ND: Tensor) -> Tensor:
        inner = x_ND if self.down is None else self.down(x_ND)
        return torch.addcmul(x_ND, x0_ND, self.up(inner))


class CrossNet(nn.Module):
    """A stack of cross layers: l of them hold all products of up to l + 1 inputs. [N, D] -> [N, D]."""

    def __init__(self, width: int, layers: int, rank: int | None = None) -> None:
        super().__init__()
        self.out_width = width
        self.layers = nn.ModuleList(CrossLayer(width, rank) for _ in range(layers))
        self._flops_per_row = layers * 2 * (width * width if rank is None else 2 * width * rank) + layers * 2 * width

    def forward(self, x0_ND: Tensor) -> Tensor:
        x_ND = x0_ND
        for layer in self.layers:
            x_ND = layer(x0_ND, x_ND)
        return x_ND

    def axes(self, inputs: Layout) -> dict[str, Axes]:
        """Of the parameters that are as wide as the input, which is as wide as every layer's output."""
        found: dict[str, Axes] = {}
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, CrossLayer)
            of_layer: dict[str, Axes] = {"up.weight": (inputs, inputs), "up.bias": (inputs,)}
            if layer.down is not None:
                of_layer |= {"up.weight": (inputs, None), "down.weight": (None, inputs)}
            found |= within(f"layers.{number}", of_layer)
        return found

    def flops(self, rows: int) -> int:
        """Of the matrix products and of the element-wise product with the sum."""
        return rows * self._flops_per_row
