"""The head of token models: tokens side by side and the behaviours' mean, in the order that its axes name."""

from __future__ import annotations

import torch

from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.token_head import TokenHead


def test_tokens_then_behaviours() -> None:
    head = TokenHead(("a", "b", "c"), 2, MLPSettings(hidden=(5, 4), dropout=0.0)).double()
    x_NLD, behaviour_ND = torch.randn(7, 3, 2, dtype=torch.float64), torch.randn(7, 2, dtype=torch.float64)
    out = head(x_NLD, behaviour_ND)
    assert out.shape == (7, head.out_width) == (7, 4)
    for n in range(7):
        assert torch.allclose(out[n], head.mlp(torch.cat([*x_NLD[n], behaviour_ND[n]])), rtol=0, atol=1e-14)
    assert head.axes() == {"mlp.layers.0.weight": (None, (("a", 2), ("b", 2), ("c", 2), ("behaviours", 2)))}
    assert head.flops(7) == 2 * 7 * (8 * 5 + 5 * 4)
