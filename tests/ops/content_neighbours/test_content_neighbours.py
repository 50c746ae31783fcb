"""Neighbours by content against a plain loop; ties, absent content, the sum and its gradient; what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ctr_rec.errors import ConfigError
from ctr_rec.ops.content_neighbours import Neighbours, neighbour_sum, neighbours
from ctr_rec.ops.jagged import buckets
from tests.ops.cross_attention.cases import offsets_of

LENGTHS = {
    "odd": [3, 0, 1, 7, 2],
    "all empty": [0, 0],
    "no sequence": [],
    "single": [1],
    "many buckets": [i * 7 % 23 for i in range(30)],
    "long": [90, 5],
}


@pytest.fixture(autouse=True)
def _small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several buckets with some padding in each, and sequences in pieces, with inputs a test can afford."""
    monkeypatch.setattr(buckets, "FREE_WASTE", 60)
    monkeypatch.setattr(buckets, "MOST_SCORES", 400)


def same(got: Neighbours, want: Neighbours) -> None:
    assert got.index_PK.equal(want.index_PK)
    torch.testing.assert_close(got.weight_PK, want.weight_PK, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_is_the_reference(lengths: list[int], k: int, dtype: torch.dtype) -> None:
    """A third of the items have no content; each item stands for several events."""
    content = torch.randn(max(sum(lengths) // 2, 3), 6, dtype=dtype)
    content[::3] = 0
    item, offsets = torch.randint(0, len(content), (sum(lengths),)), offsets_of(lengths)
    got, want = (neighbours(content, item, offsets, k, b) for b in ("auto", "reference"))
    same(got, want)
    assert got.index_PK.shape == got.weight_PK.shape == (sum(lengths), k)


def test_itself_its_sequence_and_nothing_without_content() -> None:
    content = torch.tensor([[3.0, 0.0], [0.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])
    item, offsets = torch.tensor([0, 1, 2, 3, 0]), offsets_of([4, 1])
    found = neighbours(content, item, offsets, 3)
    assert found.index_PK.tolist() == [[0, 2, 3], [1, 1, 1], [2, 0, 3], [3, 2, 0], [4, 4, 4]]
    half = 0.5**0.5
    want = torch.tensor([[1, half, -1], [0, 0, 0], [1, half, -half], [1, -half, -1], [1, 0, 0]])
    torch.testing.assert_close(found.weight_PK, want, atol=1e-6, rtol=0)


def test_of_equals_the_later_comes_first() -> None:
    """Events of one item, and items whose vectors differ in length alone, are equally near whatever the shapes are."""
    content = torch.randn(1, 384).repeat(3, 1) * torch.tensor([[1.0], [7.0], [0.3]])
    item = torch.randint(0, 3, (63,))
    found = neighbours(content, item, offsets_of([0, 40, 23]), 4)
    assert found.index_PK.tolist() == [[39, 38, 37, 36]] * 40 + [[62, 61, 60, 59]] * 23
    assert found.weight_PK.eq(1).all()


def test_a_sequence_is_judged_by_itself() -> None:
    """To the bit: the same sequence alone, among others and beside what is not a number."""
    content, lengths = torch.randn(50, 16), [17, 4, 11, 17, 29]
    item, offsets = torch.randint(0, 50, (sum(lengths),)), offsets_of(lengths)
    among = neighbours(content, item, offsets, 5)
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        alone = neighbours(content, item[start:end], offsets_of([end - start]), 5)
        assert alone.weight_PK.equal(among.weight_PK[start:end])
        assert (alone.index_PK + start).equal(among.index_PK[start:end])
    content, item = torch.cat([content, torch.full((1, 16), torch.nan)]), item.clone()
    item[17:21] = 50
    beside = neighbours(content, item, offsets, 5)
    assert beside.weight_PK[21:].equal(among.weight_PK[21:])
    assert beside.index_PK[:17].equal(among.index_PK[:17])


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No product of a long sequence holds more scores than are allowed."""
    sizes: list[int] = []
    bmm = torch.bmm

    def counted(a: Any, b: Any) -> Any:
        sizes.append(a.shape[0] * a.shape[1] * b.shape[2])
        return bmm(a, b)

    monkeypatch.setattr(torch, "bmm", counted)
    neighbours(torch.randn(10, 4), torch.randint(0, 10, (300,)), offsets_of([300]), 5)
    assert len(sizes) == 300
    assert max(sizes) <= 400


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_sum_is_the_reference(lengths: list[int]) -> None:
    content = torch.randn(9, 6)
    content[0] = 0
    found = neighbours(content, torch.randint(0, 9, (sum(lengths),)), offsets_of(lengths), 5)
    x = torch.randn(sum(lengths), 7, dtype=torch.float64, requires_grad=True)
    got, want = (neighbour_sum(x, found, b) for b in ("auto", "reference"))
    torch.testing.assert_close(got, want)
    weight = torch.randn_like(got)
    grads = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (got, want)]
    torch.testing.assert_close(*grads)
    if sum(lengths) > 1:
        assert grads[0].ne(0).any()


def test_content_gets_no_gradient() -> None:
    content = torch.randn(4, 3, requires_grad=True)
    found = neighbours(content, torch.tensor([0, 1, 3]), offsets_of([3]), 2)
    assert not found.weight_PK.requires_grad


def test_calls_that_are_refused() -> None:
    content, item, offsets = torch.randn(4, 3), torch.tensor([0, 3]), offsets_of([2])
    with pytest.raises(ValueError, match=r"content_MC must be floating with shape \[M, C\], got: torch.int64"):
        neighbours(content.long(), item, offsets, 2)
    with pytest.raises(ValueError, match=r"item_P: expected rows inside \[0, 3\), got 3"):
        neighbours(content[:3], item, offsets, 2)
    with pytest.raises(ValueError, match="expected to run from 0 to 2 rows, got 0 to 3"):
        neighbours(content, item, offsets_of([3]), 2)
    with pytest.raises(ConfigError, match="k must be 1 or more, got: 0; switch neighbours off"):
        neighbours(content, item, offsets, 0)
    with pytest.raises(ConfigError, match="backend must be auto, bucketed or reference, got: 'dense'"):
        neighbours(content, item, offsets, 2, "dense")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"x_PD must be floating with shape \[2, D\].*got: .*\(3, 4\)"):
        neighbour_sum(torch.zeros(3, 4), neighbours(content, item, offsets, 2))
