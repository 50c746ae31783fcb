"""The blocked path against the reference: outputs and every gradient; and what must be exactly zero."""

from __future__ import annotations

import pytest
import torch

from ctr_rec.ops.prefix_attention import BlockLimits
from tests.ops.prefix_attention.cases import AWKWARD, attend, make_case, output_and_gradients

SMALL = BlockLimits(grain=4, overhead_pairs=10, max_pairs=100)
ONE_BLOCK = BlockLimits(grain=1000, overhead_pairs=10**9, max_pairs=10**9)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}


def assert_close(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    for name, expected in want.items():
        scale = 1.0 + (expected.abs().max().item() if expected.numel() else 0.0)
        torch.testing.assert_close(
            got[name], expected, rtol=0, atol=TOLERANCE[dtype] * scale, msg=lambda m, n=name: n + m
        )


@pytest.mark.parametrize("kind", ["silu", "softmax"])
@pytest.mark.parametrize("own", ["none", "candidates", "all"])
@pytest.mark.parametrize(("position", "time"), [(True, True), (True, False), (False, True), (False, False)])
def test_blocked_equals_reference(kind: str, own: str, position: bool, time: bool) -> None:
    case = make_case(own=own)
    bias = case.bias(position, time)
    want = output_and_gradients(case, bias, kind=kind, backend="reference")
    assert want["q"].abs().sum() > 0
    assert (want["position"].abs().sum() > 0) == position
    assert (want["time"].abs().sum() > 0) == time
    for limits in (None, SMALL, ONE_BLOCK):
        assert_close(output_and_gradients(case, bias, kind=kind, backend="blocked", limits=limits), want, torch.float64)


@pytest.mark.parametrize("kind", ["silu", "softmax"])
@pytest.mark.parametrize("norm", ["constant", "visible_count"])
@pytest.mark.parametrize("lengths", [AWKWARD, (), (0, 0), (1,), (200,), (1,) * 30])
def test_lengths_and_norms(kind: str, norm: str, lengths: tuple[int, ...]) -> None:
    for dtype in (torch.float64, torch.float32):
        for window in (1, 20, 1000):
            case = make_case(lengths, window, dtype)
            want = output_and_gradients(case, case.bias(), kind=kind, norm=norm, backend="reference")
            got = output_and_gradients(case, case.bias(), kind=kind, norm=norm, limits=SMALL)
            assert got["out"].dtype == dtype
            assert_close(got, want, dtype)


@pytest.mark.parametrize("kind", ["silu", "softmax"])
@pytest.mark.parametrize("own", ["candidates", "all"])
@pytest.mark.parametrize("own_keys", [1, 4])
@pytest.mark.parametrize("query_aware", [False, True])
def test_several_own_keys(kind: str, own: str, own_keys: int, query_aware: bool) -> None:
    for lengths in (AWKWARD, (1,), ()):
        case = make_case(lengths, own=own, own_keys=own_keys)
        for bias in (case.query_bias() if query_aware else case.bias(), None):
            want = output_and_gradients(case, bias, kind=kind, norm="visible_count", backend="reference")
            got = output_and_gradients(case, bias, kind=kind, norm="visible_count", limits=SMALL)
            assert_close(got, want, torch.float64)
            assert want["own_k"].shape[1] == own_keys
            assert lengths == () or (want["own_v"] != 0).all()


@pytest.mark.parametrize("kind", ["silu", "softmax"])
def test_one_own_key_may_come_with_its_dimension_or_without(kind: str) -> None:
    case = make_case()
    with_dimension = case.changed(own_k=case.tensors["own_k"][:, None], own_v=case.tensors["own_v"][:, None])
    assert torch.equal(attend(with_dimension, case.bias(), kind=kind), attend(case, case.bias(), kind=kind))


@pytest.mark.parametrize("kind", ["silu", "softmax"])
def test_no_bias_object(kind: str) -> None:
    case = make_case()
    assert_close(
        output_and_gradients(case, None, kind=kind, limits=SMALL),
        output_and_gradients(case, None, kind=kind, backend="reference"),
        torch.float64,
    )


@pytest.mark.parametrize("kind", ["silu", "softmax"])
def test_a_query_that_sees_nothing(kind: str) -> None:
    """Without an own key its output and its gradients are 0; with one it is its own value, weighted."""
    for own in ("none", "candidates"):
        case = make_case((5,), own=own)
        sees_nothing = case.lo == case.hi
        assert sees_nothing.any()
        out = output_and_gradients(case, case.bias(), kind=kind)
        assert torch.isfinite(out["q"]).all()
        if own == "none":
            assert (out["out"][sees_nothing] == 0).all()
            assert (out["q"][sees_nothing] == 0).all()
        elif kind == "softmax":
            torch.testing.assert_close(out["out"][sees_nothing], case.tensors["own_v"].detach()[sees_nothing[5:]])
        else:
            assert (out["out"][sees_nothing] != 0).all()


@pytest.mark.parametrize("kind", ["silu", "softmax"])
def test_hidden_keys_have_no_influence(kind: str) -> None:
    """One query's output does not move by a bit, and its gradient is exactly 0, whatever the hidden keys hold."""
    case = make_case(dtype=torch.float32)
    for query in (0, 3, 60, 150, 200, len(case.lo) - 1):
        hidden = torch.ones(case.num_keys, dtype=torch.bool)
        hidden[case.lo[query] : case.hi[query]] = False
        out = attend(case, case.bias(), kind=kind)
        grads = torch.autograd.grad(out[query].square().sum(), [case.tensors["k"], case.tensors["v"]])
        for grad in grads:
            assert (grad[hidden] == 0).all()
            assert (grad[~hidden] != 0).any() == (~hidden).any()
        keys, values = case.tensors["k"].detach().clone(), case.tensors["v"].detach().clone()
        keys[hidden] += 100 * torch.randn_like(keys[hidden])
        values[hidden] -= 50
        replaced = attend(case.changed(k=keys, v=values), case.bias(), kind=kind)
        assert torch.equal(replaced[query], out[query])


def test_another_users_own_keys_are_unseen() -> None:
    case = make_case(own="candidates")
    grad = torch.autograd.grad(attend(case, case.bias())[-1].sum(), case.tensors["own_v"])[0]
    assert (grad[:-1] == 0).all()
    assert (grad[-1] != 0).all()


@pytest.mark.parametrize("own_keys", [None, 3])
def test_gradcheck(own_keys: int | None) -> None:
    case = make_case((4, 0, 3), window=2, own="all", own_keys=own_keys)
    names = list(case.tensors)
    leaves = tuple(case.tensors.values())
    for kind in ("silu", "softmax"):

        def call(*tensors: torch.Tensor, kind: str = kind) -> torch.Tensor:
            changed = case.changed(**dict(zip(names, tensors, strict=True)))
            return attend(changed, changed.bias(), kind=kind, limits=SMALL)

        assert torch.autograd.gradcheck(call, leaves, fast_mode=True)


def test_half_precision_comes_back_in_its_own_dtype() -> None:
    case = make_case(dtype=torch.bfloat16)
    exact = make_case(dtype=torch.float32)
    rounded = {name: tensor.detach().float() for name, tensor in case.tensors.items()}
    out = attend(case, case.bias())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(
        out.float(), attend(exact.changed(**rounded), exact.bias()).detach(), rtol=1e-2, atol=1e-2
    )


def test_strided_inputs() -> None:
    """Slices of one projection, as a layer makes them, need no copy by the caller."""
    case = make_case()
    joint = torch.randn(case.num_keys, 4, 3, 5, dtype=torch.float64, requires_grad=True)
    strided = case.changed(k=joint[:, 1], v=joint[:, 3])
    copied = case.changed(k=joint[:, 1].contiguous(), v=joint[:, 3].contiguous())
    loose = strided.changed(own_v=case.tensors["own_v"][..., :5])
    tight = copied.changed(own_v=case.tensors["own_v"][..., :5])
    torch.testing.assert_close(attend(loose, case.bias()), attend(tight, case.bias()))
    grads = [torch.autograd.grad(attend(c, case.bias()).sum(), joint)[0] for c in (loose, tight)]
    torch.testing.assert_close(*grads)


def test_autocast_changes_nothing() -> None:
    case = make_case(dtype=torch.float32)
    plain = attend(case, case.bias())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(attend(case, case.bias()), plain)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["silu", "softmax"])
def test_cuda_equals_the_reference_on_cpu(kind: str) -> None:
    case = make_case()
    want = output_and_gradients(case, case.bias(), kind=kind, backend="reference")
    for limits in (None, SMALL):
        moved = case.on("cuda")
        got = output_and_gradients(moved, moved.bias(), kind=kind, limits=limits)
        assert_close({name: tensor.cpu() for name, tensor in got.items()}, want, torch.float64)
