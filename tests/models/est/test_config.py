"""Settings of EST that contradict each other are refused in a sentence; norms are what they are called."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.est.config import Norm
from ctr_rec.models.est.tower import ESTConfig


def test_contradictions_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"tower\.csa compares contents, .* names none; name it, or set"):
        ESTConfig()
    with pytest.raises(ValidationError, match=r"heads is 3 and tokens\.width 64; choose a width that heads divide"):
        ESTConfig(csa=False, heads=3)


def test_inner_width_is_a_multiple_of_the_tokens() -> None:
    tokens = TokenSettings(width=10)
    assert ESTConfig(csa=False, tokens=tokens).inner == 20
    assert ESTConfig(csa=False, tokens=tokens, ffn=0.01).inner == 1


@pytest.mark.parametrize("norm", Norm)
def test_norms(norm: Norm) -> None:
    x = torch.randn(3, 5, dtype=torch.float64) + 2
    out = norm.module(5).double()(x)
    torch.testing.assert_close(out.square().mean(-1), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-4)
    centred = out.mean(-1).abs().max() < 1e-9
    assert bool(centred) is (norm is Norm.LAYER)
