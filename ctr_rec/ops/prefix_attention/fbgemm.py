"""Padded attention by fbgemm's jagged operators: what teams on TorchRec write first, to compare with; float32 only.

Keys fall into groups that no range crosses, as a rule one per user. Queries and keys of each group are padded to the
longest, multiplied densely, masked, and made jagged again. Time and memory grow with groups x longest queries x longest
keys: at density 0.5 of both, a quarter of the pairs are real, and a window saves nothing. Forward and backward keep all
padded pairs.

Legend: Q queries, C queries with own keys (the last C), K own keys of each, T keys, G groups, R and S queries and keys
of the largest group, H heads, E width of queries and keys, V width of values, N rows of a table.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import silu

from ctr_rec.ops.prefix_attention.bias import Bias, QueryBias, time_bucket
from ctr_rec.ops.prefix_attention.pairs import Pairs
from ctr_rec.ops.prefix_attention.reference import own_bias

_HIDDEN = float("-inf")


@dataclass(frozen=True)
class _Padding:
    """order_Q sorts queries by group, rank_Q undoes it; offsets are int64 [G + 1]; rows are of the bias tables."""

    order_Q: Tensor
    rank_Q: Tensor
    query_offsets: Tensor
    key_offsets: Tensor
    most_queries: int
    most_keys: int
    visible_GRS: Tensor
    position_GRS: Tensor | None
    bucket_GRS: Tensor | None

    def pad_queries(self, x_Q: Tensor, value: float = 0.0) -> Tensor:
        """[G, R, ...]."""
        return _pad(x_Q.index_select(0, self.order_Q), self.query_offsets, self.most_queries, value)

    def pad_keys(self, x_T: Tensor) -> Tensor:
        """[G, S, ...]."""
        return _pad(x_T, self.key_offsets, self.most_keys)

    def to_queries(self, x_GR: Tensor) -> Tensor:
        """The inverse of pad_queries."""
        flat = x_GR.flatten(2).contiguous()
        rows = torch.ops.fbgemm.dense_to_jagged(flat, [self.query_offsets], len(self.order_Q))[0]
        return rows.index_select(0, self.rank_Q).unflatten(1, x_GR.shape[2:])


def fbgemm_prefix_attention(
    q_QHE: Tensor,
    k_THE: Tensor,
    v_THV: Tensor,
    own_k_CKHE: Tensor | None,
    own_v_CKHV: Tensor | None,
    bias: Bias | None,
    pairs: Pairs,
    *,
    kind: str,
    scale: float,
) -> Tensor:
    """The same as reference_prefix_attention, in float32."""
    # Registers the operators; slow to load, and no other backend needs it.
    import fbgemm_gpu  # noqa: F401

    padding = pairs.once("fbgemm", lambda: _make_padding(pairs))
    with torch.autocast(v_THV.device.type, enabled=False):
        q_GHRE = padding.pad_queries(q_QHE).transpose(1, 2)
        k_GHSE, v_GHSV = (padding.pad_keys(x).transpose(1, 2) for x in (k_THE, v_THV))
        logit_GHRS = scale * (q_GHRE @ k_GHSE.transpose(2, 3))
        if bias is not None:
            for table, rows_GRS in zip(_tables(bias), (padding.position_GRS, padding.bucket_GRS), strict=True):
                if table is not None and rows_GRS is not None:
                    logit_GHRS = logit_GHRS + _gathered(bias, table, rows_GRS, q_GHRE, scale)
        own_QHK = _own_logits(q_QHE, own_k_CKHE, bias, scale)
        own_GHRK = padding.pad_queries(own_QHK, _HIDDEN).transpose(1, 2)
        weight_GHRS, own_weight_GHRK = _weights(logit_GHRS, own_GHRK, padding.visible_GRS.unsqueeze(1), kind)
        out_QHV = padding.to_queries((weight_GHRS @ v_GHSV).transpose(1, 2))
        if own_v_CKHV is None:
            return out_QHV
        first_own = len(q_QHE) - len(own_v_CKHV)
        own_weight_QHK = padding.to_queries(own_weight_GHRK.transpose(1, 2))
        own_CHV = torch.einsum("chk,ckhv->chv", own_weight_QHK[first_own:], own_v_CKHV)
        return torch.cat([out_QHV[:first_own], out_QHV[first_own:] + own_CHV])


def _pad(x_R: Tensor, offsets: Tensor, longest: int, value: float = 0.0) -> Tensor:
    flat = x_R.flatten(1).contiguous()
    return torch.ops.fbgemm.jagged_to_padded_dense(flat, [offsets], [longest], value).unflatten(2, x_R.shape[1:])


def _make_padding(pairs: Pairs) -> _Padding:
    pairs.check()
    key_offsets, group_Q = _groups(pairs.lo_Q, pairs.hi_Q, pairs.num_keys)
    order_Q = group_Q.argsort(stable=True)
    counts = torch.bincount(group_Q, minlength=len(key_offsets) - 1)
    query_offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    most_queries, most_keys = (max(int(x.diff().max()), 1) for x in (query_offsets, key_offsets))

    def at_queries(x_Q: Tensor) -> Tensor:
        return _pad(x_Q[order_Q].unsqueeze(1), query_offsets, most_queries).to(torch.int64)

    index_GS = key_offsets[:-1, None] + torch.arange(most_keys, device=key_offsets.device)
    distance_GRS = at_queries(pairs.hi_Q) - index_GS.unsqueeze(1)
    width_GR1 = at_queries(pairs.hi_Q - pairs.lo_Q)
    position_GRS = distance_GRS.clamp(0, pairs.num_positions - 1) if pairs.num_positions else None
    bucket_GRS = None
    if pairs.num_buckets:
        query_time_Q, key_time_T = pairs.times()
        key_time_GS1 = _pad(key_time_T.to(torch.int64).unsqueeze(1), key_offsets, most_keys)
        seconds_GRS = at_queries(query_time_Q.to(torch.int64)) - key_time_GS1.transpose(1, 2)
        bucket_GRS = time_bucket(seconds_GRS, pairs.num_buckets, pairs.time_edges_G)
    return _Padding(
        order_Q=order_Q,
        rank_Q=order_Q.argsort(),
        query_offsets=query_offsets,
        key_offsets=key_offsets,
        most_queries=most_queries,
        most_keys=most_keys,
        visible_GRS=(distance_GRS > 0) & (distance_GRS <= width_GR1),
        position_GRS=position_GRS,
        bucket_GRS=bucket_GRS,
    )


def _groups(lo_Q: Tensor, hi_Q: Tensor, num_keys: int) -> tuple[Tensor, Tensor]:
    """Where groups of keys begin, with the end, int64 [G + 1], and the group of each query, int64 [Q].

    A group ends where no range has keys on both sides. A query that sees nothing is in whichever group stands there.
    """
    crossing = torch.zeros(num_keys + 2, dtype=torch.int64, device=lo_Q.device)
    seeing = lo_Q < hi_Q
    ones = torch.ones_like(lo_Q[seeing])
    crossing.index_add_(0, lo_Q[seeing] + 1, ones)
    crossing.index_add_(0, hi_Q[seeing], -ones)
    inside = crossing.cumsum(0)[1:num_keys] > 0
    starts = torch.cat([lo_Q.new_zeros(1), (~inside).nonzero().squeeze(1) + 1, lo_Q.new_full((1,), num_keys)])
    group_Q = torch.searchsorted(starts, lo_Q, right=True) - 1
    return starts, group_Q.clamp(max=len(starts) - 2)


def _tables(bias: Bias) -> tuple[Tensor | None, Tensor | None]:
    """Of position and of time."""
    if isinstance(bias, QueryBias):
        return bias.position_PE, bias.time_BE
    return bias.position_PH, bias.time_BH


def _gathered(bias: Bias, table: Tensor, rows_GRS: Tensor, q_GHRE: Tensor, scale: float) -> Tensor:
    """[G, H, R, S]."""
    if isinstance(bias, QueryBias):
        score_GHRN = scale * (q_GHRE @ table.t())
        return score_GHRN.gather(3, rows_GRS.unsqueeze(1).expand(-1, q_GHRE.shape[1], -1, -1))
    return table[rows_GRS].permute(0, 3, 1, 2)


def _own_logits(q_QHE: Tensor, own_k_CKHE: Tensor | None, bias: Bias | None, scale: float) -> Tensor:
    """[Q, H, K], -inf where there is none; K = 1 without own keys."""
    if own_k_CKHE is None:
        return q_QHE.new_full((*q_QHE.shape[:2], 1), _HIDDEN)
    first_own, num_heads = len(q_QHE) - len(own_k_CKHE), q_QHE.shape[1]
    q_CHE = q_QHE[first_own:]
    own_CHK = scale * torch.einsum("che,ckhe->chk", q_CHE, own_k_CKHE)
    if bias is not None:
        own_CHK = own_CHK + own_bias(bias, q_CHE, scale).unsqueeze(-1)
    return torch.cat([own_CHK.new_full((first_own, num_heads, own_CHK.shape[2]), _HIDDEN), own_CHK])


def _weights(logit_GHRS: Tensor, own_GHRK: Tensor, visible_G1RS: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Weights of the stream's keys and of own keys."""
    hidden_own = own_GHRK == _HIDDEN
    if kind == "silu":
        # SiLU of -inf is not 0 but NaN.
        return silu(logit_GHRS) * visible_G1RS, silu(own_GHRK.masked_fill(hidden_own, 0.0))
    logits = torch.cat([logit_GHRS.masked_fill(~visible_G1RS, _HIDDEN), own_GHRK], dim=3)
    # A row without a single visible key would be 0/0.
    sees_nothing = ~visible_G1RS.any(3, keepdim=True) & hidden_own.all(3, keepdim=True)
    weight = logits.masked_fill(sees_nothing, 0.0).softmax(3).masked_fill(sees_nothing, 0.0)
    return weight[..., : logit_GHRS.shape[3]], weight[..., logit_GHRS.shape[3] :]
