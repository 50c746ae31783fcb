"""The plain truth: a dense Q x T mask, any dtype, gradients by autograd.

Legend: Q queries, C queries with own keys (the last C), K own keys of each, T keys, H heads, E width of queries and
keys, V width of values.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu

from ctr_rec.ops.prefix_attention.bias import Bias, QueryBias


def _log2_edges(num_buckets: int, device: torch.device) -> Tensor:
    """floor(log2(1 + s)) >= b exactly when s >= 2^b - 1."""
    return torch.tensor([2**bucket - 1 for bucket in range(1, min(num_buckets, 63))], dtype=torch.int64, device=device)


def position_rows(bias: Bias, hi_Q: Tensor, num_keys: int) -> Tensor:
    """Position row of every pair, int64 [Q, T]."""
    distance_QT = hi_Q[:, None] - torch.arange(num_keys, device=hi_Q.device)
    return distance_QT.clamp(0, bias.num_positions - 1)


def time_rows(bias: Bias) -> Tensor:
    """Time bucket of every pair, int64 [Q, T]."""
    assert bias.query_time_Q is not None
    assert bias.key_time_T is not None
    seconds_QT = (bias.query_time_Q[:, None] - bias.key_time_T).clamp(min=0)
    edges = _log2_edges(bias.num_buckets, seconds_QT.device) if bias.time_edges_G is None else bias.time_edges_G
    return torch.bucketize(seconds_QT, edges, right=True).clamp(max=bias.num_buckets - 1)


def dense_bias(bias: Bias, q_QHE: Tensor, hi_Q: Tensor, num_keys: int, scale: float) -> Tensor:
    """What is added to scale q.k for every pair, [H, Q, T]; a query-aware bias gathers an [Q, T, E] tensor for it."""
    bias_HQT = torch.zeros((), device=hi_Q.device)
    if isinstance(bias, QueryBias):
        for table, rows in ((bias.position_PE, position_rows), (bias.time_BE, lambda b, *_: time_rows(b))):
            if table is not None:
                bias_HQT = bias_HQT + scale * torch.einsum("qhe,qte->hqt", q_QHE, table[rows(bias, hi_Q, num_keys)])
        return bias_HQT
    if bias.position_PH is not None:
        bias_HQT = bias_HQT + bias.position_PH[position_rows(bias, hi_Q, num_keys)].permute(2, 0, 1)
    if bias.time_BH is not None:
        bias_HQT = bias_HQT + bias.time_BH[time_rows(bias)].permute(2, 0, 1)
    return bias_HQT


def own_bias(bias: Bias, q_CHE: Tensor, scale: float) -> Tensor:
    """Bias of every own key of a query: position row 0 and time row 0, [C, H], [H] or []."""
    if isinstance(bias, QueryBias):
        codes = [table[0] for table in (bias.position_PE, bias.time_BE) if table is not None]
        return scale * (q_CHE @ torch.stack(codes).sum(0)) if codes else torch.zeros(())
    parts = [table[0] for table in (bias.position_PH, bias.time_BH) if table is not None]
    return torch.stack(parts).sum(0) if parts else torch.zeros(())


def reference_prefix_attention(
    q_QHE: Tensor,
    k_THE: Tensor,
    v_THV: Tensor,
    lo_Q: Tensor,
    hi_Q: Tensor,
    own_k_CKHE: Tensor | None,
    own_v_CKHV: Tensor | None,
    bias: Bias | None,
    *,
    kind: str,
    scale: float,
) -> Tensor:
    """Weighted sum of visible values, [Q, H, V], before any division: A(X) V of HSTU, or softmax attention.

    The weights are SiLU(logit) or their softmax over what the query sees, of logits scale q.k + bias, or with a
    query-aware bias scale q.(k + Pos + Time). A query that sees nothing gets 0.
    """
    key_T = torch.arange(k_THE.shape[0], device=k_THE.device)
    visible_QT = (key_T >= lo_Q[:, None]) & (key_T < hi_Q[:, None])
    logit_HQT = scale * torch.einsum("qhe,the->hqt", q_QHE, k_THE)
    if bias is not None:
        logit_HQT = logit_HQT + dense_bias(bias, q_QHE, hi_Q, k_THE.shape[0], scale)
    own_HCK = None
    first_own = len(q_QHE) - (0 if own_k_CKHE is None else len(own_k_CKHE))
    if own_k_CKHE is not None:
        own_CHK = scale * torch.einsum("che,ckhe->chk", q_QHE[first_own:], own_k_CKHE)
        own_HCK = (
            own_CHK if bias is None else own_CHK + own_bias(bias, q_QHE[first_own:], scale).unsqueeze(-1)
        ).transpose(0, 1)

    if kind == "silu":
        weight_HQT = silu(logit_HQT) * visible_QT
        own_weight_HCK = None if own_HCK is None else silu(own_HCK)
    else:
        hidden = float("-inf")
        num_own = 1 if own_HCK is None else own_HCK.shape[2]
        own_HQK = logit_HQT.new_full((logit_HQT.shape[0], first_own, num_own), hidden)
        own_HQK = own_HQK if own_HCK is None else torch.cat([own_HQK, own_HCK], dim=1)
        logits = torch.cat([logit_HQT.masked_fill(~visible_QT, hidden), own_HQK], dim=-1)
        # A row without a single visible key would be 0/0.
        sees_nothing_Q1 = ((lo_Q == hi_Q) & (torch.arange(len(lo_Q), device=lo_Q.device) < first_own))[:, None]
        weight = torch.softmax(logits.masked_fill(sees_nothing_Q1, 0.0), dim=-1).masked_fill(sees_nothing_Q1, 0.0)
        weight_HQT = weight[..., : k_THE.shape[0]]
        own_weight_HCK = weight[:, first_own:, k_THE.shape[0] :]
    out_QHV = torch.einsum("hqt,thv->qhv", weight_HQT, v_THV)
    if own_v_CKHV is None or own_weight_HCK is None:
        return out_QHV
    own_CHV = torch.einsum("hck,ckhv->chv", own_weight_HCK, own_v_CKHV)
    return torch.cat([out_QHV[:first_own], out_QHV[first_own:] + own_CHV])
