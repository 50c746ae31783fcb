"""Exact cosines and their ranks."""

from __future__ import annotations

import weakref

import torch

from ctr_rec.ops.jagged.ranking import NOTHING, largest, place_of, rank_of, similarity_of, unit


def test_products_do_not_depend_on_their_shape() -> None:
    """In whatever order: the same pair of rows alone, in a matrix, and summed up backwards."""
    a, b = unit(torch.randn(37, 301))[0], unit(torch.randn(53, 301))[0]
    whole = a @ b.T
    assert whole[11:12].equal(a[11:12] @ b.T)
    assert whole.equal(a.flip(1) @ b.flip(1).T)
    assert whole.equal((a[:, None] * b).cumsum(2)[..., -1])
    plain = a.float() @ b.float().T
    torch.testing.assert_close(whole, plain.double(), atol=1e-6, rtol=0)
    assert (a @ a.T).diagonal().sub(1).abs().max() < 1e-6


def test_rows_without_a_direction() -> None:
    found, has = unit(torch.tensor([[0.0, 0.0], [1e-30, 0.0], [3.0, 4.0]]))
    assert has.tolist() == [False, True, True]
    torch.testing.assert_close(found, torch.tensor([[0, 0], [1, 0], [0.6, 0.8]]).double(), atol=1e-7, rtol=0)


def test_units_are_made_once_for_a_tensor_and_again_when_it_changes() -> None:
    x, equal = torch.randn(4, 3), torch.zeros(4, 3)
    equal.copy_(x)
    first = unit(x)[0]
    assert unit(x)[0] is first
    assert unit(equal)[0] is not first
    x[0] = torch.tensor([0.0, 0.0, 2.0])
    assert unit(x)[0][0].tolist() == [0.0, 0.0, 1.0]


def test_units_of_inference_tensors() -> None:
    with torch.inference_mode():
        x = torch.tensor([[3.0, 4.0]])
        x.mul_(2)
        torch.testing.assert_close(unit(x)[0], torch.tensor([[0.6, 0.8]]).double(), atol=1e-7, rtol=0)


def test_units_go_with_their_tensor() -> None:
    x = torch.randn(4, 3)
    made = weakref.ref(unit(x)[0])
    assert made() is not None
    del x
    assert made() is None


def test_ranks_order_by_cosine_then_place() -> None:
    cosine = torch.tensor([[[0.5, -1.0, 0.5, 1.0, -0.25, 0.9]]], dtype=torch.float64)
    hidden = torch.tensor([[[False, False, False, False, False, True]]])
    found = largest(rank_of(cosine.clone(), hidden), 7)[0, 0]
    assert place_of(found)[:5].tolist() == [3, 2, 0, 4, 1]
    assert found[5:].tolist() == [NOTHING] * 2
    assert similarity_of(found).tolist() == [1.0, 0.5, 0.5, -0.25, -1.0, 0.0, 0.0]
