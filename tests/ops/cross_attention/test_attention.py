"""Cross-attention: every fast path against the definition, in output and gradients; parts; what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ctr_rec.errors import ConfigError
from ctr_rec.ops.cross_attention import KeySet, Part, cross_attention, merge, partial
from ctr_rec.ops.cross_attention.reference import reference_cross_attention
from ctr_rec.ops.jagged import buckets
from tests.ops.cross_attention.cases import CASES, SCALE, VALUES, Case, make_case, make_set, offsets_of


@pytest.fixture(autouse=True)
def _small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several buckets with some padding in each, and problems in pieces, with inputs a test can afford."""
    monkeypatch.setattr(buckets, "FREE_WASTE", 60)
    monkeypatch.setattr(buckets, "MOST_SCORES", 200)


def gradients(found: Tensor | Part, case: Case) -> list[Tensor]:
    """Gradients of a random combination of what was found; of finite log-sum-exps too."""
    generator = torch.Generator().manual_seed(1)
    total = torch.zeros((), dtype=case.q.dtype)
    for x in [found] if isinstance(found, Tensor) else found:
        weight = torch.randn(x.shape, generator=generator).to(total.dtype)
        total = total + (x * weight)[x.isfinite()].sum()
    if not total.requires_grad:
        return [torch.zeros_like(leaf) for leaf in case.leaves]
    return list(torch.autograd.grad(total, case.leaves, allow_unused=True, materialize_grads=True))


def agree(got: list[Tensor], want: list[Tensor], tolerance: float = 1e-10) -> None:
    for i, (one, other) in enumerate(zip(got, want, strict=True)):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance, msg=lambda text, i=i: f"{i}: {text}")


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_bucketed_is_the_reference(name: str, heads: int) -> None:
    case = make_case(*CASES[name], heads=heads)
    want, got = (cross_attention(case.q, case.sets, SCALE, backend=b) for b in ("reference", "auto"))
    agree([got, *gradients(got, case)], [want, *gradients(want, case)])
    assert got.shape == (len(case.q), 4, heads, VALUES)


@pytest.mark.parametrize("name", CASES)
def test_fbgemm_is_the_reference(name: str) -> None:
    case = make_case(*CASES[name], dtype=torch.float32)
    want, got = (cross_attention(case.q, case.sets, SCALE, backend=b) for b in ("reference", "fbgemm"))
    agree([got, *gradients(got, case)], [want, *gradients(want, case)], 1e-4)


@pytest.mark.parametrize("name", CASES)
def test_merged_parts_are_the_whole(name: str) -> None:
    """Also the log-sum-exp and its gradient."""
    case = make_case(*CASES[name])
    want = Part(*reference_cross_attention(case.q, case.sets, SCALE))
    got = merge([partial(case.q, key_set, SCALE) for key_set in case.sets])
    agree([*got, *gradients(got, case)], [*want, *gradients(want, case)])


def test_large_scores_do_not_overflow() -> None:
    case = make_case(2, [([3, 2], None), ([4], [0, 0])])
    want, got = (cross_attention(case.q, case.sets, 1e4, backend=b) for b in ("reference", "auto"))
    agree([got, *gradients(got, case)], [want, *gradients(want, case)], 1e-6)
    assert got.isfinite().all()


@pytest.mark.parametrize("queries", [0, 1])
def test_few_queries(queries: int) -> None:
    case = make_case(*CASES["two sets"], queries=queries)
    want, got = (cross_attention(case.q, case.sets, SCALE, backend=b) for b in ("reference", "auto"))
    agree([got, *gradients(got, case)], [want, *gradients(want, case)])


def test_no_key_no_gradient() -> None:
    """Impression 1 has no key: zeros, and nothing reaches its queries. Nobody reads segment 1 of the second set."""
    case = make_case(3, [([2, 0, 1], None), ([0, 3, 2], [2, 0, 2])])
    out = cross_attention(case.q, case.sets, SCALE)
    d_q, d_k, *_, d_v = torch.autograd.grad(out.sum(), case.leaves)
    assert out[1].eq(0).all()
    assert d_q[1].eq(0).all()
    assert d_v[:3].eq(0).all()
    assert out[[0, 2]].ne(0).all()
    assert d_k.ne(0).any()
    assert d_v[3:].ne(0).all()


def test_what_one_impression_cannot_see_does_not_reach_it() -> None:
    """NaN in every key that impression 0 does not read leaves its output and its gradients as they are."""
    case = make_case(*CASES["many buckets"])
    want = cross_attention(case.q, case.sets, SCALE)
    others = [replace(s, **{name: poisoned(getattr(s, name), s, 1) for name in ("k_PHE", "v_PHE")}) for s in case.sets]
    got = cross_attention(case.q, others, SCALE)
    assert got[1].equal(want[1])
    assert got[2].isnan().any()
    found = torch.autograd.grad(got[1].sum(), case.q)[0]
    assert found[1].isfinite().all()


def poisoned(x: Tensor, key_set: KeySet, n: int) -> Tensor:
    segment = n if key_set.segment_N is None else int(key_set.segment_N[n])
    low, high = key_set.offsets_S1[segment : segment + 2].tolist()
    return torch.cat([x[:low] * torch.nan, x[low:high], x[high:] * torch.nan])


def test_shared_keys_are_not_copied_for_each_impression(monkeypatch: pytest.MonkeyPatch) -> None:
    gathered: list[int] = []
    select = torch.Tensor.index_select

    def counted(x: Tensor, dim: int, index: Tensor) -> Tensor:
        gathered.append(len(index))
        return select(x, dim, index)

    monkeypatch.setattr(torch.Tensor, "index_select", counted)
    case = make_case(50, [([300], [0] * 50)], queries=1, heads=1)
    cross_attention(case.q, case.sets, SCALE)
    assert max(gathered) == 300


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    case = make_case(*CASES["two sets"])
    half = Case(case.q.to(dtype), [replace(s, k_PHE=s.k_PHE.to(dtype), v_PHE=s.v_PHE.to(dtype)) for s in case.sets])
    want, got = cross_attention(case.q, case.sets, SCALE), partial(half.q, half.sets[0], SCALE)
    assert got.lse_NLH.dtype == torch.float32
    found = cross_attention(half.q, half.sets, SCALE)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), want, atol=0.03, rtol=0.03)
    agree([x.double() for x in gradients(found, case)], gradients(want, case), 0.1)


def test_autocast_changes_nothing() -> None:
    case = make_case(*CASES["two sets"], dtype=torch.float32)
    want = cross_attention(case.q, case.sets, SCALE)
    with torch.autocast("cpu", torch.bfloat16):
        assert cross_attention(case.q, case.sets, SCALE).equal(want)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k_PHE": torch.zeros(3, 2, 4)}, r"key_sets\[0\]\.k_PHE must have shape \[P, 2, 3\] .*got: \(3, 2, 4\)"),
        ({"v_PHE": torch.zeros(2, 2, 4)}, r"key_sets\[0\]\.v_PHE must have shape \[3, 2, V\] .*got: \(2, 2, 4\)"),
        ({"v_PHE": torch.zeros(3, 2, 4)}, r"v_PHE must have the dtype of q_NLHE, torch\.float64, got: torch\.float32"),
        ({"offsets_S1": offsets_of([2, 2])}, "expected to run from 0 to 3 rows, got 0 to 4"),
        ({"offsets_S1": offsets_of([3])}, "one segment for each of 2 impressions, got: 1; pass segment_N"),
        ({"segment_N": torch.tensor([0, 2])}, r"segment_N: expected rows inside \[0, 2\), got 2"),
        ({"segment_N": torch.tensor([0])}, "segment_N must have one entry for each of 2 impressions, got: 1"),
    ],
)
def test_a_set_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    case = make_case(2, [([2, 1], None)])
    with pytest.raises(ValueError, match=message):
        cross_attention(case.q, [replace(case.sets[0], **change)], SCALE)


def test_calls_that_are_refused() -> None:
    case = make_case(2, [([2, 1], None)])
    with pytest.raises(ValueError, match=r"q_NLHE must be floating with shape \[N, L, H, E\], got: .* \(2, 4, 2\)"):
        cross_attention(case.q[..., 0], case.sets, SCALE)
    with pytest.raises(ValueError, match="expected at least one key set, got: none"):
        cross_attention(case.q, [], SCALE)
    with pytest.raises(ValueError, match=r"values of all sets must have one width, got: \[5, 4\]"):
        cross_attention(case.q, [*case.sets, make_set([2, 1], values=4)], SCALE)
    with pytest.raises(ConfigError, match=r"backend must be one of .*got: 'flash'"):
        cross_attention(case.q, case.sets, SCALE, backend="flash")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"'fbgemm' expects float32, .*got: torch.float64; use 'auto'"):
        cross_attention(case.q, case.sets, SCALE, backend="fbgemm")
    with pytest.raises(ValueError, match="merge: expected at least one part, got: none"):
        merge([])
