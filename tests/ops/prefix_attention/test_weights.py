"""The weights are the reference's: one-hot values read them off its output."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ctr_rec.ops.prefix_attention import BlockLimits, BlockPlan, QueryBias, RelativeBias, plan_blocks, softmax_weights
from ctr_rec.ops.prefix_attention.reference import reference_prefix_attention
from tests.ops.prefix_attention.cases import Case, make_case

SMALL = BlockLimits(grain=4, overhead_pairs=20, max_pairs=300)


def _plan(case: Case, bias: QueryBias | RelativeBias | None, limits: BlockLimits | None) -> BlockPlan:
    return plan_blocks(
        case.lo,
        case.hi,
        case.num_keys,
        num_positions=0 if bias is None else bias.num_positions,
        num_buckets=0 if bias is None else bias.num_buckets,
        query_time_Q=case.query_time,
        key_time_T=case.key_time,
        joint=not isinstance(bias, QueryBias),
        limits=limits,
    )


def _dense(case: Case, bias: QueryBias | RelativeBias | None, plan: BlockPlan) -> tuple[Tensor, Tensor]:
    """[Q, H, T] and the own weights [Q, H] of all blocks."""
    q = case.tensors["q"]
    weight = torch.full((len(q), q.shape[1], case.num_keys), 0.0, dtype=q.dtype)
    own = torch.full(q.shape[:2], float("nan"), dtype=q.dtype)
    for block in softmax_weights(q, case.tensors["k"], case.tensors.get("own_k"), bias, scale=0.4, plan=plan):
        keys = slice(block.key_start, block.key_start + block.weight_Hqk.shape[2])
        weight[block.query_q, :, keys] = block.weight_Hqk.transpose(0, 1)
        own[block.query_q] = block.own_Hq.t()
    return weight, own


def _reference(case: Case, bias: QueryBias | RelativeBias | None) -> tuple[Tensor, Tensor]:
    own_k = case.tensors.get("own_k")
    heads, keys = case.tensors["q"].shape[1], case.num_keys
    v = torch.eye(keys, keys + 1, dtype=torch.float64).unsqueeze(1).expand(-1, heads, -1)
    own_v = None
    if own_k is not None:
        own_v = torch.zeros(len(own_k), heads, keys + 1, dtype=torch.float64)
        own_v[..., -1] = 1
    with torch.no_grad():
        out = reference_prefix_attention(
            case.tensors["q"], case.tensors["k"], v, case.lo, case.hi, own_k, own_v, bias, kind="softmax", scale=0.4
        )
    return out[..., :-1], out[..., -1]


@pytest.mark.parametrize("kind", ["query", "relative", "none"])
@pytest.mark.parametrize("own", ["candidates", "all", "none"])
@pytest.mark.parametrize("limits", [SMALL, None], ids=["many blocks", "few"])
def test_weights_are_the_references(kind: str, own: str, limits: BlockLimits | None) -> None:
    case = make_case(own=own)
    bias = {"query": case.query_bias(), "relative": case.bias(), "none": None}[kind]
    got, got_own = _dense(case, bias, _plan(case, bias, limits))
    want, want_own = _reference(case, bias)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    torch.testing.assert_close(got_own, want_own, rtol=0, atol=1e-12)
    total = got.sum(-1) + got_own
    assert torch.allclose(total[total > 0], torch.ones((), dtype=torch.float64))


def test_no_query_gives_no_block() -> None:
    case = make_case(lengths=(0,))
    assert (
        list(softmax_weights(case.tensors["q"], case.tensors["k"], None, None, scale=1, plan=_plan(case, None, None)))
        == []
    )
