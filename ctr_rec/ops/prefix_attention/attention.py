"""The op's signature, its checks, its division and its choice of backend.

Legend: Q queries, C queries with own keys (the last C), K own keys of each, T keys, H heads, E width of queries and
keys, V width of values.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ctr_rec.errors import ConfigError
from ctr_rec.ops.prefix_attention.bias import Bias, QueryBias, RelativeBias
from ctr_rec.ops.prefix_attention.blocked import blocked_prefix_attention
from ctr_rec.ops.prefix_attention.choose import BACKENDS, Backend, choose
from ctr_rec.ops.prefix_attention.fbgemm import fbgemm_prefix_attention
from ctr_rec.ops.prefix_attention.flex import flex_prefix_attention
from ctr_rec.ops.prefix_attention.pairs import Pairs, pairs_of
from ctr_rec.ops.prefix_attention.plan import BlockPlan
from ctr_rec.ops.prefix_attention.reference import reference_prefix_attention

Kind = Literal["silu", "softmax"]
Norm = Literal["constant", "visible_count"]


def prefix_attention(
    q_QHE: Tensor,
    k_THE: Tensor,
    v_THV: Tensor,
    lo_Q: Tensor,
    hi_Q: Tensor,
    own_k_CHE: Tensor | None = None,
    own_v_CHV: Tensor | None = None,
    bias: Bias | None = None,
    *,
    kind: Kind = "silu",
    scale: float = 1.0,
    norm: Norm = "constant",
    norm_constant: float = 1.0,
    plan: Pairs | BlockPlan | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Attend from each query to the keys lo:hi of a packed stream, and from the last C queries to own keys too.

    q_QHE: [Q, H, E], history tokens or candidates. k_THE, v_THV: [T, H, E] and [T, H, V], the history of all users, one
    after another. lo_Q, hi_Q: int64 [Q]; the range never leaves the query's user, which is what keeps users apart.
    own_k_CHE, own_v_CHV: [C, H, E] and [C, H, V], the own key and value of the last C queries (the candidates), or
    [C, K, H, E] and [C, K, H, V] where each has K >= 1 of them. Own keys have bias row 0 of both tables and are in no
    range. One call for history and candidates together is cheaper than two. bias: additive scalars (`RelativeBias`) or
    query-aware embeddings (`QueryBias`).

    kind "silu": sum of SiLU(scale q.k + bias) v, divided by norm_constant or by the number of visible keys, own keys
    included (arXiv 2402.17152, section 3; never by the longest length of a batch, which would couple users).
    kind "softmax": scaled dot-product attention; norm and norm_constant belong to "silu" and are not read.
    A query that sees nothing gets 0.

    plan: the `Pairs` of the same lo_Q, hi_Q, times and table sizes, made once per batch, or a BlockPlan of the blocked
    backend alone; else it is made here. backend: "auto" is the fastest for device and kind, see choose.py.

    Returns [Q, H, V] in the dtype of v_THV. Raises ConfigError for an unknown kind, norm or backend and for a backend
    that cannot compute the call, ValueError for shapes, ranges or a plan that do not belong together.
    """
    _check_choices(kind, norm, norm_constant, backend)
    _check_shapes(q_QHE, k_THE, v_THV, own_k_CHE, own_v_CHV, bias)
    own_k_CKHE, own_v_CKHV = _several(own_k_CHE), _several(own_v_CHV)
    if len(lo_Q) != len(q_QHE):
        raise ValueError(f"prefix_attention: q_QHE has {len(q_QHE)} queries, got ranges for: {len(lo_Q)}")
    if plan is None:
        plan = pairs_of(lo_Q, hi_Q, k_THE.shape[0], bias)
    else:
        _check_plan(plan, lo_Q, hi_Q, k_THE.shape[0], bias)
    backend = choose(backend, kind, q_QHE, v_THV)
    out_QHV = _attend(q_QHE, k_THE, v_THV, own_k_CKHE, own_v_CKHV, bias, plan, kind, scale, backend)
    if kind == "softmax":
        return out_QHV
    if norm == "constant":
        return out_QHV / norm_constant
    count_Q = hi_Q - lo_Q
    if own_k_CKHE is not None:
        count_Q[len(count_Q) - len(own_k_CKHE) :] += own_k_CKHE.shape[1]
    return out_QHV / count_Q.clamp(min=1).to(out_QHV.dtype)[:, None, None]


def _attend(
    q_QHE: Tensor,
    k_THE: Tensor,
    v_THV: Tensor,
    own_k_CKHE: Tensor | None,
    own_v_CKHV: Tensor | None,
    bias: Bias | None,
    plan: Pairs | BlockPlan,
    kind: Kind,
    scale: float,
    backend: Backend,
) -> Tensor:
    """The chosen backend's sum, before any division."""
    if backend == "blocked":
        table = bias.codes() if isinstance(bias, QueryBias) else bias.joint_table() if bias is not None else None
        blocks = plan.blocks(joint=not isinstance(bias, QueryBias)) if isinstance(plan, Pairs) else plan
        return blocked_prefix_attention(
            q_QHE, k_THE, v_THV, own_k_CKHE, own_v_CKHV, table, blocks, kind=kind, scale=scale
        )
    if isinstance(plan, BlockPlan):
        raise ValueError(f"prefix_attention: a BlockPlan is for backend 'blocked', got: {backend!r}; pass its Pairs")
    if backend == "reference":
        plan.check()
        bias = bias if bias is None else _with_times(bias, plan)
        return reference_prefix_attention(
            q_QHE, k_THE, v_THV, plan.lo_Q, plan.hi_Q, own_k_CKHE, own_v_CKHV, bias, kind=kind, scale=scale
        )
    if backend == "flex":
        return flex_prefix_attention(q_QHE, k_THE, v_THV, own_k_CKHE, own_v_CKHV, bias, plan, scale=scale)
    return fbgemm_prefix_attention(q_QHE, k_THE, v_THV, own_k_CKHE, own_v_CKHV, bias, plan, kind=kind, scale=scale)


def _with_times(bias: Bias, pairs: Pairs) -> Bias:
    return replace(bias, query_time_Q=pairs.query_time_Q, key_time_T=pairs.key_time_T, time_edges_G=pairs.time_edges_G)


def _several(own: Tensor | None) -> Tensor | None:
    """Own keys or values with a dimension for the several that a query may have, [C, K, H, ...]."""
    return own if own is None or own.dim() == 4 else own.unsqueeze(1)


def _check_choices(kind: str, norm: str, norm_constant: float, backend: str) -> None:
    for name, value, allowed in (
        ("kind", kind, ("silu", "softmax")),
        ("norm", norm, ("constant", "visible_count")),
        ("backend", backend, BACKENDS),
    ):
        if value not in allowed:
            raise ConfigError(f"prefix_attention: {name} must be one of {allowed}, got: {value!r}")
    if not norm_constant > 0:
        raise ConfigError(f"prefix_attention: norm_constant must be above 0, got: {norm_constant}")


def _check_shapes(
    q_QHE: Tensor,
    k_THE: Tensor,
    v_THV: Tensor,
    own_k_CHE: Tensor | None,
    own_v_CHV: Tensor | None,
    bias: Bias | None,
) -> None:
    (num_queries, num_heads, width), num_keys, value_width = q_QHE.shape, k_THE.shape[0], v_THV.shape[-1]
    own = (num_queries,) if own_k_CHE is None else (min(num_queries, own_k_CHE.shape[0]), *own_k_CHE.shape[1:-2])
    tables: dict[str, Tensor | None] = {}
    if isinstance(bias, RelativeBias):
        tables = {"bias.position_PH": bias.position_PH, "bias.time_BH": bias.time_BH}
    elif bias is not None:
        tables = {"bias.position_PE": bias.position_PE, "bias.time_BE": bias.time_BE}
    last = num_heads if isinstance(bias, RelativeBias) else width
    for name, tensor, expected in (
        ("k_THE", k_THE, (num_keys, num_heads, width)),
        ("v_THV", v_THV, (num_keys, num_heads, value_width)),
        ("own_k_CHE", own_k_CHE, (*own, num_heads, width)),
        ("own_v_CHV", own_v_CHV, (*own, num_heads, value_width)),
        *((name, table, (None, last)) for name, table in tables.items()),
    ):
        if tensor is None:
            continue
        got = tuple(tensor.shape)
        if len(got) != len(expected) or any(want not in (None, size) for want, size in zip(expected, got, strict=True)):
            raise ValueError(f"prefix_attention: {name} must have shape {expected} to fit q_QHE and k_THE, got: {got}")
    if len(own) > 2 or 0 in own[1:]:
        got = None if own_k_CHE is None else tuple(own_k_CHE.shape)
        raise ValueError(
            f"prefix_attention: own_k_CHE must have shape [C, H, E], or [C, K, H, E] with K >= 1, got: {got}; pass "
            "None where there are no own keys"
        )
    if (own_k_CHE is None) != (own_v_CHV is None):
        raise ValueError("prefix_attention: own_k_CHE and own_v_CHV go together, got only one; pass both or neither")


def _check_plan(plan: Pairs | BlockPlan, lo_Q: Tensor, hi_Q: Tensor, num_keys: int, bias: Bias | None) -> None:
    sizes = (num_keys, *((0, 0) if bias is None else (bias.num_positions, bias.num_buckets)))
    planned = (plan.num_keys, plan.num_positions, plan.num_buckets)
    if sizes != planned:
        raise ValueError(
            f"prefix_attention: the plan was made for (keys, positions, time buckets) {planned}, got: {sizes}; "
            "make it with plan_blocks from this batch and these tables"
        )
    if isinstance(plan, BlockPlan) and sizes[1:] != (0, 0) and plan.joint != isinstance(bias, RelativeBias):
        wanted = "RelativeBias, joint=True" if plan.joint else "QueryBias, joint=False"
        raise ValueError(
            f"prefix_attention: the plan was made for a {wanted}, got: {type(bias).__name__}; make it with "
            f"plan_blocks(..., joint={not plan.joint})"
        )
    same = (plan.lo_Q is lo_Q or torch.equal(plan.lo_Q, lo_Q)) and (plan.hi_Q is hi_Q or torch.equal(plan.hi_Q, hi_Q))
    if not same:
        raise ValueError("prefix_attention: the plan was made from other ranges lo_Q, hi_Q; make it from this batch")
