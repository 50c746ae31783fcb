"""Layers with weights of each token's own, as feature tokens have them: token l is multiplied by matrix l.

Legend: N impressions, L tokens, D width in, E width out, F inner width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctr_rec.layers.layout import Axes, Layout, within


def token_layout(names: tuple[str, ...]) -> Layout:
    """One row for each token, by its name."""
    return tuple((name, 1) for name in names)


class PerTokenLinear(nn.Module):
    """[N, L, D] -> [N, L, E], token l by its own matrix, and its own bias where there is one."""

    def __init__(self, names: tuple[str, ...], in_width: int, out_width: int, bias: bool = False) -> None:
        super().__init__()
        self.names, self.in_width, self.out_width = names, in_width, out_width
        bound = in_width**-0.5
        self.weight_LDE = nn.Parameter(torch.empty(len(names), in_width, out_width).uniform_(-bound, bound))
        self.bias_LE = nn.Parameter(torch.zeros(len(names), out_width)) if bias else None

    def forward(self, x_NLD: Tensor) -> Tensor:
        x_LND = x_NLD.transpose(0, 1)
        if self.bias_LE is None:
            return torch.bmm(x_LND, self.weight_LDE).transpose(0, 1)
        return torch.baddbmm(self.bias_LE.unsqueeze(1), x_LND, self.weight_LDE).transpose(0, 1)

    def axes(self, inputs: Layout | None = None, outputs: Layout | None = None) -> dict[str, Axes]:
        """inputs, outputs: what a token's D and E are made of, where the tokens there are decide that too."""
        found: dict[str, Axes] = {"weight_LDE": (token_layout(self.names), inputs, outputs)}
        if self.bias_LE is not None:
            found["bias_LE"] = (token_layout(self.names), outputs)
        return found

    def flops(self, rows: int) -> int:
        """rows: N."""
        return 2 * rows * len(self.names) * self.in_width * self.out_width


class PerTokenSwiGLU(nn.Module):
    """[N, L, D] -> [N, L, D]: W_out (silu(W_gate x) * W_up x), all three of each token's own (Shazeer 2020)."""

    def __init__(self, names: tuple[str, ...], width: int, inner: int) -> None:
        super().__init__()
        self.gate_and_up = PerTokenLinear(names, width, 2 * inner)
        self.out = PerTokenLinear(names, inner, width)

    def forward(self, x_NLD: Tensor) -> Tensor:
        gate_NLF, up_NLF = self.gate_and_up(x_NLD).chunk(2, dim=-1)
        return self.out(functional.silu(gate_NLF) * up_NLF)

    def axes(self) -> dict[str, Axes]:
        return within("gate_and_up", self.gate_and_up.axes()) | within("out", self.out.axes())

    def flops(self, rows: int) -> int:
        return self.gate_and_up.flops(rows) + self.out.flops(rows)


class PerTokenGELU(nn.Module):
    """[N, L, D] -> [N, L, D]: W_out gelu(W_in x + b) + b', all of each token's own."""

    def __init__(self, names: tuple[str, ...], width: int, inner: int) -> None:
        super().__init__()
        self.into = PerTokenLinear(names, width, inner, bias=True)
        self.out = PerTokenLinear(names, inner, width, bias=True)

    def forward(self, x_NLD: Tensor) -> Tensor:
        return self.out(functional.gelu(self.into(x_NLD)))

    def axes(self, width: Layout | None = None) -> dict[str, Axes]:
        """width: what a token's D is made of, where the tokens there are decide that too."""
        return within("into", self.into.axes(width)) | within("out", self.out.axes(None, width))

    def flops(self, rows: int) -> int:
        return self.into.flops(rows) + self.out.flops(rows)


class SwiGLU(nn.Module):
    """[..., D] -> [..., D] with one set of weights for all rows."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.width, self.inner = width, inner
        self.gate_and_up = nn.Linear(width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_and_up(x).chunk(2, dim=-1)
        return self.out(functional.silu(gate) * up)

    def flops(self, rows: int) -> int:
        return 2 * rows * 3 * self.width * self.inner
