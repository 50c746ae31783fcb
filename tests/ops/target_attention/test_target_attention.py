"""Target attention: both fast paths against the definition, in output and every gradient; split, memory, guards."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from ctr_rec.ops.target_attention import AttentionMLP, PairCode, blocked, target_attention
from ctr_rec.ops.target_attention.workspace import WORKSPACE

DIM, WIDTH, LAST = 5, 7, 3
LENGTHS = {
    "odd": [3, 0, 1, 7, 2],
    "all empty": [0, 0, 0],
    "no impression": [],
    "single": [1],
    "many blocks": [63, 1, 0, 100, 5, 64, 31, 0],
}


class Inputs(NamedTuple):
    """A call's tensors; `leaves` are those with a gradient."""

    target_ND: Tensor
    event_TD: Tensor
    position_P: Tensor
    offsets_N1: Tensor
    mlp: AttentionMLP
    pair_codes: tuple[PairCode, ...]

    @property
    def leaves(self) -> list[Tensor]:
        mlp = self.mlp
        hidden = [x for layer in mlp.hidden for x in layer]
        first = [self.target_ND, self.event_TD, mlp.w_target_DH, mlp.w_event_DH, mlp.w_product_DH, mlp.b_H]
        return [*first, mlp.w_out_K, mlp.b_out, *hidden, *(code.bias_CH for code in self.pair_codes)]


def rand(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, dtype=dtype).requires_grad_()


def make(lengths: list[int], *, num_hidden: int = 1, num_codes: int = 2, dtype: torch.dtype = torch.float64) -> Inputs:
    num_events, num_pairs = max(sum(lengths) // 2, 1), sum(lengths)
    dims = [WIDTH, *[LAST] * num_hidden]
    mlp = AttentionMLP(
        *(rand(DIM, WIDTH, dtype=dtype) for _ in range(3)),
        b_H=rand(WIDTH, dtype=dtype),
        hidden=tuple((rand(a, b, dtype=dtype), rand(b, dtype=dtype)) for a, b in itertools.pairwise(dims)),
        w_out_K=rand(dims[-1], dtype=dtype),
        b_out=rand(dtype=dtype),
    )
    codes = tuple(
        PairCode(torch.randint(0, size, (num_pairs,)), rand(size, WIDTH, dtype=dtype)) for size in (4, 1)[:num_codes]
    )
    return Inputs(
        rand(len(lengths), DIM, dtype=dtype),
        rand(num_events, DIM, dtype=dtype),
        torch.randint(0, num_events, (num_pairs,)),
        torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0),
        mlp,
        codes,
    )


def gradients(pooled_ND: Tensor, inputs: Inputs, seed: int = 1) -> list[Tensor]:
    grad_ND = torch.randn(pooled_ND.shape, generator=torch.Generator().manual_seed(seed)).to(pooled_ND.dtype)
    if not pooled_ND.requires_grad:
        return [torch.zeros_like(leaf) for leaf in inputs.leaves]
    found = torch.autograd.grad(
        pooled_ND, inputs.leaves, grad_ND, allow_unused=True, materialize_grads=True, retain_graph=True
    )
    return list(found)


def agree(got: list[Tensor], want: list[Tensor], tolerance: float = 1e-10) -> None:
    for i, (one, other) in enumerate(zip(got, want, strict=True)):
        torch.testing.assert_close(
            one, other, atol=tolerance, rtol=tolerance, msg=lambda text, i=i: f"gradient {i}: {text}"
        )


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, some of one long impression, with inputs a test can afford."""
    monkeypatch.setattr(blocked, "BLOCK_PAIRS", 64)


@pytest.fixture(autouse=True)
def _dirty_workspace() -> None:
    """Every buffer that will be taken holds NaN, like fresh memory in these tests."""
    leases = [WORKSPACE.take(500, width, torch.float64) for width in (1, 3, 5, 7, 12)]
    for lease in leases:
        lease.tensor.fill_(torch.nan)
        WORKSPACE.give(lease)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize("normalize", ["none", "softmax"])
@pytest.mark.parametrize("backend", ["blocked", "jagged"])
def test_matches_reference(backend: Any, normalize: Any, activation: Any, lengths: list[int]) -> None:
    inputs = make(lengths)
    truth = target_attention(*inputs, activation=activation, normalize=normalize, backend="reference")
    fast = target_attention(*inputs, activation=activation, normalize=normalize, backend=backend)
    torch.testing.assert_close(fast, truth, atol=1e-10, rtol=1e-10)
    agree(gradients(fast, inputs), gradients(truth, inputs))


@pytest.mark.parametrize("num_hidden", [0, 1, 2, 3])
@pytest.mark.parametrize("num_codes", [0, 1, 2])
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_any_depth_and_number_of_codes(activation: Any, num_codes: int, num_hidden: int) -> None:
    inputs = make(LENGTHS["odd"], num_hidden=num_hidden, num_codes=num_codes)
    truth = target_attention(*inputs, activation=activation, backend="reference")
    for backend in ("blocked", "jagged"):
        fast = target_attention(*inputs, activation=activation, backend=backend)  # type: ignore[arg-type]
        torch.testing.assert_close(fast, truth, atol=1e-10, rtol=1e-10)
        agree(gradients(fast, inputs), gradients(truth, inputs))


@pytest.mark.parametrize("normalize", ["none", "softmax"])
def test_gradients_are_those_of_differences(normalize: Any) -> None:
    # The smooth activation: a kink inside the difference's step would say nothing about the gradient.
    inputs = make([3, 0, 2])

    def run(*_: Tensor) -> Tensor:
        return target_attention(*inputs, activation="silu", normalize=normalize, backend="blocked")

    assert torch.autograd.gradcheck(run, inputs.leaves)


def test_split_first_layer_is_the_concatenated_one() -> None:
    inputs = make(LENGTHS["odd"], num_codes=0)
    w_target, w_event, w_gap, w_product = (torch.randn(DIM, WIDTH, dtype=torch.float64) for _ in range(4))
    mlp = inputs.mlp._replace(w_target_DH=w_target + w_gap, w_event_DH=w_event - w_gap, w_product_DH=w_product)
    (w_2, b_2), pooled = mlp.hidden[0], []
    for n in range(len(inputs.target_ND)):
        event_LD = inputs.event_TD[inputs.position_P[inputs.offsets_N1[n] : inputs.offsets_N1[n + 1]]]
        target_LD = inputs.target_ND[n].expand_as(event_LD)
        x = torch.cat([target_LD, event_LD, target_LD - event_LD, target_LD * event_LD], dim=1)
        x = torch.relu(x @ torch.cat([w_target, w_event, w_gap, w_product]) + mlp.b_H)
        pooled.append((torch.relu(x @ w_2 + b_2) @ mlp.w_out_K + mlp.b_out) @ event_LD)
    got = target_attention(*inputs[:4], mlp)
    torch.testing.assert_close(got, torch.stack(pooled), atol=1e-10, rtol=1e-10)


def test_single_precision_is_close_to_the_double_reference() -> None:
    inputs = make(LENGTHS["many blocks"], dtype=torch.float32)
    doubles = Inputs(*map(_double, inputs))
    truth = target_attention(*doubles, backend="reference")
    got = target_attention(*inputs)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), truth, atol=2e-4, rtol=1e-4)
    for one, other in zip(gradients(got, inputs), gradients(truth, doubles), strict=True):
        assert (one.double() - other).norm() <= 1e-5 * other.norm()


def _double(part: Any) -> Any:
    if isinstance(part, Tensor):
        return part.detach().double().requires_grad_() if part.is_floating_point() else part
    if isinstance(part, AttentionMLP):
        return AttentionMLP(*map(_double, part))
    if isinstance(part, PairCode):
        return PairCode(part.code_P, _double(part.bias_CH))
    return tuple(map(_double, part))


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_recomputed_blocks_give_the_same_gradients(activation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make(LENGTHS["many blocks"], num_hidden=2)
    kept = gradients(target_attention(*inputs, activation=activation, backend="blocked"), inputs)
    monkeypatch.setattr(blocked, "KEEP_BYTES", 0)
    again = gradients(target_attention(*inputs, activation=activation, backend="blocked"), inputs)
    agree(again, kept, tolerance=0.0)


def test_nothing_is_kept_above_the_bound_nor_without_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make(LENGTHS["many blocks"])
    taken = []
    take_layers = blocked._take_layers
    monkeypatch.setattr(blocked, "_take_layers", lambda *args: taken.append(args) or take_layers(*args))
    target_attention(*inputs, backend="blocked")
    assert len(taken) == 1
    with torch.no_grad():
        target_attention(*inputs, backend="blocked")
    monkeypatch.setattr(blocked, "KEEP_BYTES", 0)
    target_attention(*inputs, backend="blocked")
    assert len(taken) == 1


def test_second_backward_over_one_graph_is_the_first() -> None:
    inputs = make(LENGTHS["many blocks"])
    pooled_ND = target_attention(*inputs, backend="blocked")
    agree(gradients(pooled_ND, inputs), gradients(pooled_ND, inputs), tolerance=0.0)


def test_two_calls_may_be_open_at_once() -> None:
    one, two = make(LENGTHS["many blocks"]), make(LENGTHS["many blocks"])
    alone = gradients(target_attention(*one, backend="blocked"), one)
    pooled_one, pooled_two = target_attention(*one, backend="blocked"), target_attention(*two, backend="blocked")
    agree(gradients(pooled_one, one), alone, tolerance=0.0)
    truth = target_attention(*two, backend="reference")
    agree(gradients(pooled_two, two), gradients(truth, two))


def test_repeats_to_the_bit() -> None:
    inputs = make(LENGTHS["many blocks"], dtype=torch.float32)
    runs = [gradients(target_attention(*inputs), inputs) for _ in range(3)]
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_threads_change_nothing_but_the_order_of_weight_sums(activation: Any) -> None:
    inputs = make(LENGTHS["many blocks"])
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 3):
            torch.set_num_threads(threads)
            pooled_ND = target_attention(*inputs, activation=activation, normalize="softmax", backend="blocked")
            found.append([pooled_ND.detach(), *gradients(pooled_ND, inputs)])
            with torch.inference_mode():
                quiet_ND = target_attention(*inputs, activation=activation, normalize="softmax", backend="blocked")
            assert torch.equal(quiet_ND, found[-1][0])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        agree(other, found[0], tolerance=1e-12)
    agree(found[3], found[2], tolerance=0.0)


def test_evaluation_leaves_no_graph_and_spoils_no_training_step() -> None:
    inputs = make(LENGTHS["many blocks"])
    before = gradients(target_attention(*inputs, backend="blocked"), inputs)
    for quiet in (torch.no_grad(), torch.inference_mode()):
        with quiet:
            assert not target_attention(*inputs, backend="blocked").requires_grad
    agree(gradients(target_attention(*inputs, backend="blocked"), inputs), before, tolerance=0.0)


def test_only_some_inputs_may_need_gradients() -> None:
    inputs = make(LENGTHS["odd"])
    frozen = inputs._replace(event_TD=inputs.event_TD.detach())
    want = gradients(target_attention(*inputs, backend="reference"), inputs)
    got = target_attention(*frozen, backend="blocked")
    (grad_target,) = torch.autograd.grad(
        got, [frozen.target_ND], torch.randn(got.shape, generator=torch.Generator().manual_seed(1)).double()
    )
    torch.testing.assert_close(grad_target, want[0])


def test_inputs_that_are_not_contiguous_are_read_right() -> None:
    inputs = make(LENGTHS["odd"])
    turned = inputs._replace(target_ND=inputs.target_ND.detach().t().contiguous().t().requires_grad_())
    assert not turned.target_ND.is_contiguous()
    torch.testing.assert_close(target_attention(*turned), target_attention(*inputs))


def test_an_impression_sees_its_own_pairs_only() -> None:
    inputs = make(LENGTHS["odd"])
    pooled_ND = target_attention(*inputs)
    (grad,) = torch.autograd.grad(pooled_ND[3].sum(), inputs.event_TD)
    seen = set(inputs.position_P[inputs.offsets_N1[3] : inputs.offsets_N1[4]].tolist())
    for row in range(len(grad)):
        assert bool(grad[row].any()) == (row in seen)


def changed(**parts: Any) -> Callable[[Inputs], Inputs]:
    return lambda inputs: inputs._replace(**parts)


def of_mlp(**parts: Any) -> Callable[[Inputs], Inputs]:
    return lambda inputs: inputs._replace(mlp=inputs.mlp._replace(**parts))


def codes(code_P: Tensor, bias_CH: Tensor) -> Callable[[Inputs], Inputs]:
    return changed(pair_codes=[PairCode(code_P, bias_CH)])


F64 = torch.float64
ZEROS = torch.zeros(13, dtype=torch.int64)
BAD = {
    "widths": (changed(event_TD=torch.zeros(9, 4, dtype=F64)), r"one width, got \(5, 5\) and \(9, 4\)"),
    "position": (changed(position_P=ZEROS + 99), r"position_P: expected rows inside \[0, 6\), got 99"),
    "offsets": (changed(offsets_N1=torch.tensor([0, 1, 2, 3, 4, 5])), "from 0 to 13 rows, got 0 to 5"),
    "impressions": (changed(offsets_N1=torch.tensor([0, 13])), "expected 6 offsets for 5 targets, got 2"),
    "first layer": (of_mlp(w_event_DH=torch.zeros(5, 8, dtype=F64)), r"w_event_DH of shape \(5, 7\), got \(5, 8\)"),
    "hidden": (
        of_mlp(hidden=((torch.zeros(9, 3, dtype=F64), torch.zeros(3, dtype=F64)),)),
        r"hidden\[0\] weight of shape \(7, 3\), got \(9, 3\)",
    ),
    "out": (of_mlp(w_out_K=torch.zeros(4, dtype=F64)), r"w_out_K of shape \(3,\), got \(4,\)"),
    "scalar": (of_mlp(b_out=torch.zeros(1, dtype=F64)), r"b_out of shape \(\), got \(1,\)"),
    "type": (of_mlp(b_H=torch.zeros(7)), "b_H of target_ND's type torch.float64, got torch.float32"),
    "code row": (
        codes(ZEROS + 4, torch.zeros(4, 7, dtype=F64)),
        r"pair_codes\[0\]: expected rows inside \[0, 4\), got 4",
    ),
    "code width": (codes(ZEROS, torch.zeros(4, 6, dtype=F64)), r"pair_codes\[0\] bias \[C, 7\], got \(4, 6\)"),
    "code count": (codes(ZEROS[:3], torch.zeros(4, 7, dtype=F64)), r"expected 13 codes in pair_codes\[0\], got 3"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named(change: Callable[[Inputs], Inputs], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        target_attention(*change(make(LENGTHS["odd"])))


def test_unknown_choices_are_named() -> None:
    inputs: Any = make(LENGTHS["odd"])
    for name in ("activation", "normalize", "backend"):
        with pytest.raises(ValueError, match=rf"expected {name} .*got 'gelu'"):
            target_attention(*inputs, **{name: "gelu"})


def test_blocked_refuses_what_it_cannot_run_and_the_default_does_not() -> None:
    inputs = make([3, 2], dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"got torch.bfloat16 on cpu, autocast False; use 'jagged'"):
        target_attention(*inputs, backend="blocked")
    assert target_attention(*inputs).dtype == torch.bfloat16


def test_autocast_takes_mixed_types_and_reaches_every_gradient() -> None:
    inputs = make(LENGTHS["many blocks"], dtype=torch.float32)
    truth = target_attention(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = inputs._replace(target_ND=inputs.target_ND.bfloat16())
        pooled_ND = target_attention(*mixed)
        with pytest.raises(ValueError, match="autocast True; use 'jagged'"):
            target_attention(*inputs, backend="blocked")
    assert (pooled_ND - truth).norm() <= 0.02 * truth.norm()
    for got, want in zip(gradients(pooled_ND, inputs), gradients(truth, inputs), strict=True):
        assert got.dtype == torch.float32
        assert (got - want).norm() <= 0.05 * want.norm()
