"""Cross-attention by fbgemm's jagged operators: what teams on TorchRec reach for first, to compare with; float32 only.

Keys of all sets are gathered impression by impression, so that one jagged softmax covers them; keys that impressions
share are copied for each of them, which these operators cannot avoid.

Legend: N impressions, L queries of each, H heads, E width of queries and keys, V width of values, P (impression, key)
pairs, N1 = N + 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ctr_rec.ops.cross_attention.keys import KeySet, segment_of_impression


def fbgemm_cross_attention(q_NLHE: Tensor, key_sets: Sequence[KeySet], scale: float) -> Tensor:
    # Registers the operators; slow to load, and no other backend needs it.
    import fbgemm_gpu  # noqa: F401

    ops = torch.ops.fbgemm
    row_P, offsets_N1 = _rows_of_pairs(key_sets, len(q_NLHE))
    k_PHE, v_PHV = (torch.cat(x)[row_P] for x in zip(*((s.k_PHE, s.v_PHE) for s in key_sets), strict=True))
    if len(row_P) == 0 or q_NLHE.shape[1] == 0:
        return q_NLHE.sum() * 0 + v_PHV.sum() * 0 + q_NLHE.new_zeros(*q_NLHE.shape[:3], v_PHV.shape[2])
    longest = int(offsets_N1.diff().max())
    heads = []
    with torch.autocast(q_NLHE.device.type, enabled=False):
        for head in range(q_NLHE.shape[2]):
            q_NEL = (scale * q_NLHE[:, :, head]).transpose(1, 2).contiguous()
            score_PL = ops.jagged_dense_bmm(k_PHE[:, head].contiguous(), offsets_N1, q_NEL, longest)[0]
            weight_PL = ops.jagged_softmax(score_PL, offsets_N1, longest)[0]
            heads.append(ops.jagged_jagged_bmm(weight_PL, v_PHV[:, head].contiguous(), offsets_N1, longest))
    return torch.stack(heads, dim=2)


def _rows_of_pairs(key_sets: Sequence[KeySet], num_impressions: int) -> tuple[Tensor, Tensor]:
    """Row of each pair in the concatenation of all sets, impression by impression, and the offsets of impressions."""
    rows, impressions, base = [], [], 0
    for key_set in key_sets:
        segment_N = segment_of_impression(key_set, num_impressions)
        start_N, length_N = key_set.offsets_S1[:-1][segment_N], key_set.offsets_S1.diff()[segment_N]
        impression_P = torch.repeat_interleave(length_N)
        first_N = length_N.cumsum(0) - length_N
        rank_P = torch.arange(len(impression_P), device=length_N.device) - first_N[impression_P]
        rows.append(base + start_N[impression_P] + rank_P)
        impressions.append(impression_P)
        base += len(key_set.k_PHE)
    order_P = torch.cat(impressions).argsort(stable=True)
    counts_N = torch.bincount(torch.cat(impressions), minlength=num_impressions)
    return torch.cat(rows)[order_P], torch.cat([counts_N.new_zeros(1), counts_N.cumsum(0)])
