"""Jagged primitives: fast path against the definition in value and gradient, guards, and the order of sums."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ctr_rec.ops import jagged

LENGTHS = {
    "odd": [3, 0, 1, 7, 2],
    "single rows": [1, 1, 1],
    "all empty": [0, 0, 0],
    "no segment": [],
    "empty ends": [0, 5, 0],
    "one long": [101],
}


def offsets_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)


def rand(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype).requires_grad_()


def indices(num_pairs: int, num_rows: int = 5) -> Tensor:
    return torch.randint(0, num_rows, (num_pairs,))


def cases(lengths: list[int], dtype: torch.dtype) -> dict[str, tuple[Callable[..., Tensor], list[Tensor]]]:
    offsets_N1 = offsets_of(lengths)
    index_P = indices(sum(lengths))
    values_PD, segments_ND = rand(sum(lengths), 3, dtype=dtype), rand(len(lengths), 3, dtype=dtype)
    table_MD, weight_P = rand(5, 3, dtype=dtype), rand(sum(lengths), dtype=dtype)
    return {
        "segment_sum": (lambda v, **kw: jagged.segment_sum(v, offsets_N1, **kw), [values_PD]),
        "segment_softmax": (lambda v, **kw: jagged.segment_softmax(v, offsets_N1, **kw), [values_PD]),
        "expand": (lambda v, **kw: jagged.expand(v, offsets_N1, **kw), [segments_ND]),
        "gather": (lambda v, **kw: jagged.gather(v, index_P, **kw), [table_MD]),
        "bag_sum": (lambda v, **kw: jagged.embedding_bag(v, index_P, offsets_N1, **kw), [table_MD]),
        "bag_mean": (lambda v, **kw: jagged.embedding_bag(v, index_P, offsets_N1, "mean", **kw), [table_MD]),
        "bag_weighted": (
            lambda v, w, **kw: jagged.embedding_bag(v, index_P, offsets_N1, weight_P=w, **kw),
            [table_MD, weight_P],
        ),
    }


NAMES = sorted(cases([1], torch.float64))


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
@pytest.mark.parametrize("name", NAMES)
def test_bag_matches_reference(name: str, lengths: list[int]) -> None:
    run, inputs = cases(lengths, torch.float64)[name]
    fast, truth = run(*inputs), run(*inputs, backend="reference")
    torch.testing.assert_close(fast, truth, atol=1e-12, rtol=1e-12)
    if not truth.requires_grad:
        return
    grad = torch.randn_like(truth)
    for got, want in zip(
        torch.autograd.grad(fast, inputs, grad),
        torch.autograd.grad(truth, inputs, grad, allow_unused=True, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_differences(name: str) -> None:
    run, inputs = cases(LENGTHS["odd"], torch.float64)[name]
    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("name", ["segment_sum", "expand", "gather"])
def test_linear_functions_have_second_derivatives(name: str) -> None:
    run, inputs = cases(LENGTHS["odd"], torch.float64)[name]
    assert torch.autograd.gradgradcheck(run, inputs)


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_matches_double(name: str) -> None:
    run, inputs = cases([33, 0, 64, 1], torch.float32)[name]
    doubles = [x.detach().double() for x in inputs]
    truth = run(*doubles, backend="reference").float()
    torch.testing.assert_close(run(*inputs), truth, atol=1e-5, rtol=1e-5)


def test_softmax_survives_large_values() -> None:
    values_PH = torch.tensor([[1e30], [1e30], [-1e30], [800.0]])
    share_PH = jagged.segment_softmax(values_PH, offsets_of([3, 1]))
    assert share_PH[:, 0].tolist() == [0.5, 0.5, 0.0, 1.0]


def test_gradient_of_gather_does_not_depend_on_threads() -> None:
    table_MD, index_P = rand(7, 4, dtype=torch.float32), indices(4001, 7)
    grad_PD = torch.randn(4001, 4)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            found += torch.autograd.grad(jagged.gather(table_MD, index_P), table_MD, grad_PD)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[1], found[2])


def test_mixed_integer_types_are_accepted() -> None:
    table_MD = rand(5, 2)
    for index_type in (torch.int32, torch.int64):
        for offset_type in (torch.int32, torch.int64):
            index_P, offsets_N1 = indices(6).to(index_type), offsets_of([2, 4]).to(offset_type)
            got = jagged.embedding_bag(table_MD, index_P, offsets_N1)
            want = torch.stack([table_MD[index_P[:2].long()].sum(0), table_MD[index_P[2:].long()].sum(0)])
            torch.testing.assert_close(got, want)


def test_rows_that_are_not_contiguous_are_read_right() -> None:
    values_PD = torch.randn(3, 6, dtype=torch.float64).t()
    got = jagged.segment_sum(values_PD, offsets_of([2, 4]))
    torch.testing.assert_close(got, torch.stack([values_PD[:2].sum(0), values_PD[2:].sum(0)]))


def test_segment_of_row_names_the_owner() -> None:
    assert jagged.segment_of_row(offsets_of([2, 0, 1])).tolist() == [0, 0, 2]


VALUES, TABLE = torch.zeros(4, 2), torch.zeros(3, 2)
BAD = {
    "short": (lambda: jagged.segment_sum(VALUES, torch.tensor([0, 3])), "from 0 to 4 rows, got 0 to 3"),
    "late start": (lambda: jagged.segment_sum(VALUES, torch.tensor([1, 4])), "got 1 to 4"),
    "fall": (lambda: jagged.segment_softmax(VALUES, torch.tensor([0, 3, 2, 4])), "got 3 then 2 at segment 1"),
    "float offsets": (lambda: jagged.segment_sum(VALUES, torch.tensor([0.0, 4.0])), "got torch.float32"),
    "no offsets": (lambda: jagged.segment_sum(VALUES, torch.zeros(0, dtype=torch.int64)), "pass \\[0\\]"),
    "vector": (lambda: jagged.segment_sum(torch.zeros(4), torch.tensor([0, 4])), "two-dimensional floating"),
    "integers": (lambda: jagged.gather(torch.zeros(4, 2).long(), torch.tensor([0])), "got torch.int64"),
    "rows": (lambda: jagged.expand(VALUES, torch.tensor([0, 4])), "expected 5 offsets for 4 rows, got 2"),
    "index high": (lambda: jagged.gather(TABLE, torch.tensor([0, 3])), r"inside \[0, 3\), got 3"),
    "index low": (lambda: jagged.gather(TABLE, torch.tensor([-1, 3])), r"inside \[0, 3\), got -1"),
    "index kind": (lambda: jagged.gather(TABLE, torch.tensor([[0]])), r"got torch.int64 of shape \(1, 1\)"),
    "mode": (
        lambda: jagged.embedding_bag(TABLE, torch.tensor([0]), torch.tensor([0, 1]), "max"),  # type: ignore[arg-type]
        "got 'max'",
    ),
    "mean weights": (
        lambda: jagged.embedding_bag(TABLE, torch.tensor([0]), torch.tensor([0, 1]), "mean", weight_P=torch.ones(1)),
        "use mode 'sum'",
    ),
    "weights": (
        lambda: jagged.embedding_bag(TABLE, torch.tensor([0]), torch.tensor([0, 1]), weight_P=torch.ones(2)),
        r"one weight per index, \(1,\), got \(2,\)",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("pairs", [0, 1, 17])
def test_distinct_equals_unique(pairs: int) -> None:
    index_P = indices(pairs, 9)
    found, place_P = jagged.distinct(index_P, 9)
    expected, inverse_P = index_P.unique(return_inverse=True)
    assert torch.equal(found, expected)
    assert torch.equal(place_P, inverse_P)
    with pytest.raises(ValueError, match=r"expected rows inside \[0, 3\), got 3"):
        jagged.distinct(torch.tensor([0, 3]), 3)


@pytest.mark.parametrize("k", [1, 3, 50])
@pytest.mark.parametrize("lengths", [[], [0], [1], [0, 5, 1, 0, 40, 3]])
def test_the_largest_of_each_segment_equal_a_loop(lengths: list[int], k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    # Few values, so that there are ties; some are -inf.
    score = torch.randint(0, 4, (int(offsets[-1]),), generator=generator).double()
    score[score == 0] = -torch.inf
    got = jagged.segment_top(score, offsets, k)
    assert torch.equal(got, jagged.segment_top(score, offsets, k, backend="reference"))
    kept = [int(part.sum()) for part in got.split(lengths)] if lengths else []
    alive = [int((part > -torch.inf).sum()) for part in score.split(lengths)] if lengths else []
    assert kept == [min(k, n) for n in alive]


def test_scores_that_are_no_vector_are_refused() -> None:
    with pytest.raises(ValueError, match=r"segment_top: expected a floating vector, got torch.int64 of shape \(3,\)"):
        jagged.segment_top(torch.arange(3), torch.tensor([0, 3]), 1)


@pytest.mark.parametrize(
    ("begin", "length", "rows"),
    [([4, 0, 4], [2, 1, 0], [4, 5, 0]), ([], [], []), ([3], [0], []), ([1, 1], [2, 2], [1, 2, 1, 2])],
)
def test_stretches_follow_one_another(begin: list[int], length: list[int], rows: list[int]) -> None:
    as_ints = [torch.tensor(x, dtype=torch.int64) for x in (begin, length)]
    got, offsets = jagged.stretches(*as_ints)
    assert got.tolist() == rows
    assert offsets.tolist() == offsets_of(length).tolist()
