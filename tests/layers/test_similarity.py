"""Products of pairs against a plain gather, in one block and in many."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from ctr_rec.layers import similarity
from ctr_rec.layers.similarity import similarities

LENGTHS = [3, 0, 1, 6, 0]


@pytest.mark.parametrize("most", [2**24, 1, 13, 26, 39])
@pytest.mark.parametrize("lengths", [LENGTHS, [0, 0], []])
def test_equals_products_of_pairs(monkeypatch: pytest.MonkeyPatch, most: int, lengths: list[int]) -> None:
    monkeypatch.setattr(similarity, "MOST_ENTRIES", most)
    torch.manual_seed(0)
    x_MC = functional.normalize(torch.randn(13, 4, dtype=torch.float64), dim=-1)
    x_MC[5] = 0
    candidate_N, item_P = torch.randint(0, 13, (len(lengths),)), torch.randint(0, 13, (sum(lengths),))
    item_P[:1] = 5
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    got = similarities(x_MC.requires_grad_(), candidate_N, item_P, offsets)
    assert not got.requires_grad
    a, b = x_MC[candidate_N].repeat_interleave(torch.tensor(lengths, dtype=torch.int64), dim=0), x_MC[item_P]
    expected = (a * b).sum(-1).masked_fill((a == 0).all(-1) | (b == 0).all(-1), -torch.inf)
    torch.testing.assert_close(got, expected.detach(), rtol=0, atol=1e-7)
    assert not lengths or sum(lengths) == 0 or got[0] == -torch.inf


def test_the_shape_of_the_product_does_not_show() -> None:
    torch.manual_seed(1)
    x_MC = torch.randn(50, 37)
    candidate_N, item_P = torch.randint(0, 50, (2, 20)).unbind()
    together = similarities(x_MC, candidate_N, item_P, torch.arange(21))
    pairs = zip(candidate_N.split(1), item_P.split(1), strict=True)
    alone = [similarities(x_MC, candidate, item, torch.arange(2)) for candidate, item in pairs]
    assert torch.equal(together, torch.cat(alone))
