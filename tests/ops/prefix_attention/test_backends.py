"""Every backend against the float64 reference: values and all gradients, on every awkward packed batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.attention.flex_attention as torch_flex

from ctr_rec.ops.prefix_attention import Backend, Pairs, QueryBias, RelativeBias, flex
from ctr_rec.ops.prefix_attention.fbgemm import fbgemm_prefix_attention
from ctr_rec.ops.prefix_attention.flex import flex_prefix_attention
from ctr_rec.ops.prefix_attention.pairs import pairs_of
from ctr_rec.ops.prefix_attention.reference import dense_bias
from tests.ops.prefix_attention.cases import (
    AWKWARD,
    HEADS,
    VALUE_WIDTH,
    WIDTH,
    Case,
    make_case,
    output_and_gradients,
)

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
FAST: tuple[Backend, ...] = ("blocked", "fbgemm", "flex")
LENGTHS = {
    "awkward": AWKWARD,
    "none": (),
    "only_empty_users": (0, 0),
    "single_events": (1,) * 9,
    "longer_than_the_window": (0, 61, 1, 45),
}


@pytest.fixture(autouse=True)
def _flex_gradients_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention's uncompiled form does have a backward; torch only refuses it on CPU, where nobody wants it."""
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *inputs: None)
    monkeypatch.setattr(flex, "_refuse_gradients", lambda *inputs: None)
    torch.compiler.reset()


def in_dtype(case: Case, dtype: torch.dtype) -> Case:
    return case.changed(**{name: x.detach().to(dtype).requires_grad_() for name, x in case.tensors.items()})


def bias_of(case: Case, kind_of_bias: str | None, **tables: Any) -> RelativeBias | QueryBias | None:
    if kind_of_bias is None:
        return None
    return case.query_bias(**tables) if kind_of_bias == "query" else case.bias(**tables)


def assert_backend(case: Case, backend: Backend, kind: str, kind_of_bias: str | None, **tables: Any) -> None:
    """The backend in its own dtype on numbers that float32 holds exactly, against the reference in float64."""
    dtype = torch.float32 if backend == "fbgemm" else torch.float64
    single = in_dtype(case, torch.float32)
    exact, own = in_dtype(single, torch.float64), in_dtype(single, dtype)
    wants, gots = (
        output_and_gradients(c, bias_of(c, kind_of_bias, **tables), kind=kind, backend=name)
        for c, name in ((exact, "reference"), (own, backend))
    )
    for name, want in wants.items():
        got = gots[name]
        assert got.dtype == dtype
        tolerance = 2e-5 if dtype == torch.float32 else 1e-12
        atol = tolerance * (1.0 + (want.abs().max().item() if want.numel() else 0.0))
        torch.testing.assert_close(got.double(), want, rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def kinds(backend: Backend) -> tuple[str, ...]:
    return ("softmax",) if backend == "flex" else ("softmax", "silu")


def calls(backends: tuple[Backend, ...] = FAST) -> list[tuple[Backend, str]]:
    return [(backend, kind) for backend in backends for kind in kinds(backend)]


@pytest.mark.parametrize(("backend", "kind"), calls())
@pytest.mark.parametrize("name", LENGTHS)
def test_lengths(backend: Backend, kind: str, name: str) -> None:
    for window in (1, 20, 1000):
        assert_backend(make_case(LENGTHS[name], window), backend, kind, "query")


@pytest.mark.parametrize(("backend", "kind"), calls())
@pytest.mark.parametrize("own", ["none", "candidates", "all"])
def test_own_keys(backend: Backend, kind: str, own: str) -> None:
    assert_backend(make_case((5, 0, 1, 33), own=own), backend, kind, "query")


@pytest.mark.parametrize(("backend", "kind"), calls())
@pytest.mark.parametrize(
    ("kind_of_bias", "position", "time"),
    [("query", True, False), ("query", False, True), ("query", False, False), ("relative", True, True)],
)
def test_tables(backend: Backend, kind: str, kind_of_bias: str, position: bool, time: bool) -> None:
    assert_backend(make_case((5, 0, 1, 33)), backend, kind, kind_of_bias, position=position, time=time)


@pytest.mark.parametrize(("backend", "kind"), calls())
def test_no_bias(backend: Backend, kind: str) -> None:
    assert_backend(make_case((5, 0, 1, 33)), backend, kind, None)


@pytest.mark.parametrize(("backend", "kind"), calls())
@pytest.mark.parametrize("seed", range(3))
def test_random_lengths_and_any_order_of_queries(backend: Backend, kind: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    lengths = tuple(torch.randint(0, 40, (6,), generator=generator).tolist())
    case = make_case(lengths, window=int(torch.randint(1, 30, (), generator=generator)))
    shuffle = torch.randperm(len(case.lo), generator=generator)
    shuffled = replace(case, lo=case.lo[shuffle], hi=case.hi[shuffle], query_time=case.query_time[shuffle])
    assert_backend(shuffled, backend, kind, "query")


@pytest.mark.parametrize(("backend", "kind"), calls())
def test_equal_times(backend: Backend, kind: str) -> None:
    """All events of a user at one time: no candidate sees any, and every bucket is 0."""
    case = make_case((6, 0, 17))
    same = torch.zeros_like(case.key_time)
    start = torch.tensor([0] * 6 + [6] * 17)
    hi = torch.cat([torch.tensor([6] * 6 + [23] * 17), start])
    case = replace(case, key_time=same, query_time=torch.cat([same, same]), lo=torch.cat([start, start]), hi=hi)
    assert_backend(case, backend, kind, "query")


@pytest.mark.parametrize(("backend", "kind"), calls())
def test_an_empty_channel(backend: Backend, kind: str) -> None:
    """No keys at all, or keys that nobody sees: a candidate is left with its own key, a history query with nothing."""
    case = make_case((4, 9))
    nothing = torch.zeros_like(case.hi)
    assert_backend(replace(case, lo=nothing, hi=nothing), backend, kind, "query")
    no_keys = case.changed(k=case.tensors["k"][:0], v=case.tensors["v"][:0])
    assert_backend(replace(no_keys, lo=nothing, hi=nothing, key_time=nothing[:0]), backend, kind, "query")


@pytest.mark.parametrize(("backend", "kind"), calls())
def test_a_user_of_5000_events(backend: Backend, kind: str) -> None:
    """Few queries, so that the reference stays small: at the ends, in the middle, and of two short users beside."""
    case = make_case((3, 5_000, 8), window=5_000)
    every = len(case.lo)
    some = torch.tensor([0, 2, 3, 4, 700, 2_503, 5_002, 5_003, 5_010, 5_014, 5_700, 10_013, 10_021])
    q = case.tensors["q"].detach()[some].requires_grad_()
    own = {name: case.tensors[name].detach()[-4:].requires_grad_() for name in ("own_k", "own_v")}
    assert int(some.max()) == every - 1
    few = replace(case.changed(q=q, **own), lo=case.lo[some], hi=case.hi[some], query_time=case.query_time[some])
    assert int((few.hi - few.lo).max()) > 4_900
    assert_backend(few, backend, kind, "query")


@pytest.mark.parametrize(("backend", "kind"), calls())
def test_given_edges(backend: Backend, kind: str) -> None:
    """The first edge puts a difference of nothing into bucket 1, and the own key still has row 0."""
    edges = torch.tensor([0, 10, 300, 2_000, 2**40])
    assert_backend(make_case((12, 7)), backend, kind, "query", edges=edges)


def with_own_keys(case: Case, backend: Backend, kind: str, own: dict[str, torch.Tensor]) -> torch.Tensor:
    bias, pairs = case.query_bias(), pairs_of(case.lo, case.hi, case.num_keys, case.query_bias())
    inputs = (case.tensors["q"], case.tensors["k"], case.tensors["v"], own["k"], own["v"], bias, pairs)
    if backend == "flex":
        return flex_prefix_attention(*inputs, scale=0.4)
    return fbgemm_prefix_attention(*inputs, kind=kind, scale=0.4)


def with_own_keys_pair_by_pair(case: Case, kind: str, own: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits of the stream and of all own keys side by side, then their weights."""
    q, bias, first_own = case.tensors["q"], case.query_bias(), len(case.lo) - len(own["k"])
    key = torch.arange(case.num_keys)
    visible = (key >= case.lo[:, None]) & (key < case.hi[:, None])
    stream = 0.4 * torch.einsum("qhe,the->hqt", q, case.tensors["k"])
    stream = stream + dense_bias(bias, q, case.hi, case.num_keys, 0.4)
    codes = case.tensors["position_codes"][0] + case.tensors["time_codes"][0]
    mine = 0.4 * torch.einsum("che,ckhe->hck", q[first_own:], own["k"] + codes)
    mine = torch.cat([mine.new_full((HEADS, first_own, mine.shape[2]), -torch.inf), mine], dim=1)
    logits = torch.cat([stream.masked_fill(~visible, -torch.inf), mine], dim=2)
    seen = logits > -torch.inf
    finite = logits.masked_fill(~seen, 0.0)
    weights = torch.nn.functional.silu(finite) if kind == "silu" else finite.exp()
    weights = weights * seen
    if kind == "softmax":
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-30)
    out = torch.einsum("hqt,thv->qhv", weights[..., : case.num_keys], case.tensors["v"])
    own_out = torch.einsum("hck,ckhv->chv", weights[:, first_own:, case.num_keys :], own["v"])
    return torch.cat([out[:first_own], out[first_own:] + own_out])


@pytest.mark.parametrize(("backend", "kind"), calls(("fbgemm", "flex")))
@pytest.mark.parametrize("several", [1, 2, 5])
def test_several_own_keys(backend: Backend, kind: str, several: int) -> None:
    case = in_dtype(make_case((5, 0, 1, 33)), torch.float32)
    own = {
        "k": torch.randn(case.num_keys, several, HEADS, WIDTH, requires_grad=True),
        "v": torch.randn(case.num_keys, several, HEADS, VALUE_WIDTH, requires_grad=True),
    }
    leaves = [case.tensors[n] for n in ("q", "k", "v", "position_codes", "time_codes")] + list(own.values())
    found = []
    for out in (with_own_keys(case, backend, kind, own), with_own_keys_pair_by_pair(case, kind, own)):
        uneven = torch.linspace(-3, 5, out.numel()).view_as(out).cos()
        found.append([out, *torch.autograd.grad((out * uneven).sum(), leaves)])
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=3e-5 * (1.0 + want.abs().max().item()))


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_pairs_carry_the_times(backend: Backend) -> None:
    case = in_dtype(make_case((9, 0, 4)), torch.float32)
    full = case.query_bias()
    pairs = Pairs(
        lo_Q=case.lo,
        hi_Q=case.hi,
        num_keys=case.num_keys,
        num_positions=full.num_positions,
        num_buckets=full.num_buckets,
        query_time_Q=case.query_time,
        key_time_T=case.key_time,
    )
    tables = QueryBias(position_PE=full.position_PE, time_BE=full.time_BE)
    for _ in range(2):
        got = output_and_gradients(case, tables, kind="softmax", backend=backend, plan=pairs)
        want = output_and_gradients(case, full, kind="softmax", backend=backend)
        for name, expected in want.items():
            assert torch.equal(got[name], expected), name
