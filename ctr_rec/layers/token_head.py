"""What the token models of EST's table end with: [N tokens, mean of the behaviours] through an MLP.

EST (arXiv 2602.10811, sections 5.5 and 6.1.4): all models' last layers are read this way. The MLP's sizes are not
stated.

Legend: N impressions, L feature tokens, D token width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctr_rec.layers.layout import Axes, Layout
from ctr_rec.layers.mlp import MLP, MLPSettings


class TokenHead(nn.Module):
    """[N, L, D] and [N, D] -> [N, out_width]. names: of the tokens."""

    def __init__(self, names: tuple[str, ...], width: int, settings: MLPSettings) -> None:
        super().__init__()
        self._inputs: Layout = (*((name, width) for name in names), ("behaviours", width))
        self.mlp = MLP(width * (len(names) + 1), settings)
        self.out_width = self.mlp.out_width

    def forward(self, x_NLD: Tensor, behaviour_ND: Tensor) -> Tensor:
        return self.mlp(torch.cat([x_NLD.flatten(1), behaviour_ND], dim=-1))

    def axes(self) -> dict[str, Axes]:
        return {f"mlp.{name}": axes for name, axes in self.mlp.axes(self._inputs).items()}

    def flops(self, rows: int) -> int:
        """rows: N."""
        return self.mlp.flops(rows)
