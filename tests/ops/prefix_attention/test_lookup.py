"""The query-aware bias: blocked against reference in outputs and all gradients, and both against the formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ctr_rec.ops.prefix_attention import QueryBias, blocked, plan_blocks, prefix_attention
from tests.ops.prefix_attention.cases import AWKWARD, BUCKETS, POSITIONS, attend, make_case, output_and_gradients
from tests.ops.prefix_attention.test_blocked import ONE_BLOCK, SMALL, assert_close


@pytest.mark.parametrize("kind", ["softmax", "silu"])
@pytest.mark.parametrize("own", ["none", "candidates", "all"])
@pytest.mark.parametrize(("position", "time"), [(True, True), (True, False), (False, True), (False, False)])
def test_blocked_equals_reference(kind: str, own: str, position: bool, time: bool) -> None:
    case = make_case(own=own)
    bias = case.query_bias(position, time)
    want = output_and_gradients(case, bias, kind=kind, backend="reference")
    assert (want["position_codes"].abs().sum() > 0) == position
    assert (want["time_codes"].abs().sum() > 0) == time
    for limits in (None, SMALL, ONE_BLOCK):
        for by_runs in (False, True):
            got = output_and_gradients(case, bias, kind=kind, backend="blocked", limits=limits, by_runs=by_runs)
            assert_close(got, want, torch.float64)


@pytest.mark.parametrize("own", ["none", "candidates"])
def test_weights_kept_for_the_backward_pass_are_those_computed_again(monkeypatch: pytest.MonkeyPatch, own: str) -> None:
    case = make_case(own=own)
    kept = output_and_gradients(case, case.query_bias(), kind="softmax", limits=SMALL)
    monkeypatch.setattr(blocked, "KEPT_PAIRS", 0)
    again = output_and_gradients(case, case.query_bias(), kind="softmax", limits=SMALL)
    assert torch.equal(kept["out"], again["out"])
    assert_close(kept, again, torch.float64)
    assert any(not torch.equal(kept[name], again[name]) for name in kept), "the same way was taken twice"


@pytest.mark.parametrize("lengths", [AWKWARD, (), (0, 0), (1,), (200,), (1,) * 30])
@pytest.mark.parametrize("window", [1, 20, 1000])
def test_lengths_and_windows(lengths: tuple[int, ...], window: int) -> None:
    for dtype in (torch.float64, torch.float32):
        case = make_case(lengths, window, dtype)
        want = output_and_gradients(case, case.query_bias(), kind="softmax", backend="reference")
        for by_runs in (False, True):
            got = output_and_gradients(case, case.query_bias(), kind="softmax", limits=SMALL, by_runs=by_runs)
            assert_close(got, want, dtype)


def test_a_pair_is_what_the_formula_says() -> None:
    """w_ij = scale q_i . (k_j + Pos_ij + Time_ij), softmax over what i sees; a loop over pairs, nothing shared."""
    case = make_case((5, 3), window=3, own="candidates")
    tensors, scale = case.tensors, 0.4
    out = attend(case, case.query_bias(), kind="softmax")
    for query in range(len(case.lo)):
        seen = range(int(case.lo[query]), int(case.hi[query]))
        keys, values = [], []
        for key in seen:
            position = min(int(case.hi[query]) - key, POSITIONS - 1)
            seconds = max(int(case.query_time[query] - case.key_time[key]), 0)
            bucket = min((seconds + 1).bit_length() - 1, BUCKETS - 1)
            relative = tensors["position_codes"][position] + tensors["time_codes"][bucket]
            keys.append(tensors["k"][key] + relative)
            values.append(tensors["v"][key])
        if query >= case.num_keys:
            own = query - case.num_keys
            keys.append(tensors["own_k"][own] + tensors["position_codes"][0] + tensors["time_codes"][0])
            values.append(tensors["own_v"][own])
        logit_HS = scale * torch.stack([(tensors["q"][query] * k).sum(-1) for k in keys], dim=-1)
        want = torch.einsum("hs,shv->hv", logit_HS.softmax(-1), torch.stack(values))
        torch.testing.assert_close(out[query], want, rtol=0, atol=1e-12)


def test_gradcheck() -> None:
    case = make_case((4, 0, 3), window=2, own="all")
    names = list(case.tensors)

    def call(*tensors: torch.Tensor) -> torch.Tensor:
        changed = case.changed(**dict(zip(names, tensors, strict=True)))
        return attend(changed, changed.query_bias(), kind="softmax", limits=SMALL)

    assert torch.autograd.gradcheck(call, tuple(case.tensors.values()), fast_mode=True)


def test_hidden_keys_have_no_influence() -> None:
    case = make_case(dtype=torch.float32)
    for query in (0, 3, 60, 150, 200, len(case.lo) - 1):
        hidden = torch.ones(case.num_keys, dtype=torch.bool)
        hidden[case.lo[query] : case.hi[query]] = False
        out = attend(case, case.query_bias(), kind="softmax")
        for grad in torch.autograd.grad(out[query].square().sum(), [case.tensors["k"], case.tensors["v"]]):
            assert (grad[hidden] == 0).all()
        keys = case.tensors["k"].detach().clone()
        keys[hidden] += 100 * torch.randn_like(keys[hidden])
        assert torch.equal(attend(case.changed(k=keys), case.query_bias(), kind="softmax")[query], out[query])


def test_a_plan_for_the_other_kind_of_bias_is_refused() -> None:
    case = make_case((4,), own="none")
    times: dict[str, Any] = {"query_time_Q": case.query_time, "key_time_T": case.key_time}
    plan = plan_blocks(case.lo, case.hi, 4, num_positions=POSITIONS, num_buckets=BUCKETS, **times)
    q, k, v = (case.tensors[name] for name in ("q", "k", "v"))
    with pytest.raises(ValueError, match=r"made for a RelativeBias, joint=True, got: QueryBias.*joint=False"):
        prefix_attention(q, k, v, case.lo, case.hi, bias=case.query_bias(), plan=plan)


def test_a_table_of_another_width_is_refused() -> None:
    case = make_case((4,), own="none")
    q, k, v = (case.tensors[name] for name in ("q", "k", "v"))
    wrong = QueryBias(position_PE=torch.zeros(3, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"bias\.position_PE must have shape \(None, 5\).*got: \(3, 4\)"):
        prefix_attention(q, k, v, case.lo, case.hi, bias=wrong)
