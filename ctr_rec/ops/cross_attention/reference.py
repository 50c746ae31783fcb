"""The plain truth: one impression at a time, any dtype, gradients by autograd.

Legend: N impressions, L queries of each, H heads, E width of queries and keys, V width of values, K keys of one
impression.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ctr_rec.ops.cross_attention.keys import KeySet, segment_of_impression


def reference_cross_attention(q_NLHE: Tensor, key_sets: Sequence[KeySet], scale: float) -> tuple[Tensor, Tensor]:
    """Output [N, L, H, V] and log-sum-exp of the scores [N, L, H], -inf where there is no key."""
    num_impressions, num_queries, num_heads, _ = q_NLHE.shape
    ranges = [_ranges(key_set, num_impressions) for key_set in key_sets]
    out, lse = [], []
    for n in range(num_impressions):
        k_KHE = torch.cat([key_set.k_PHE[slice(*found[n])] for key_set, found in zip(key_sets, ranges, strict=True)])
        v_KHV = torch.cat([key_set.v_PHE[slice(*found[n])] for key_set, found in zip(key_sets, ranges, strict=True)])
        if len(k_KHE) == 0:
            out.append(v_KHV.new_zeros(num_queries, num_heads, v_KHV.shape[2]))
            lse.append(v_KHV.new_full((num_queries, num_heads), -torch.inf))
            continue
        score_LHK = scale * torch.einsum("lhe,khe->lhk", q_NLHE[n], k_KHE)
        out.append(torch.einsum("lhk,khv->lhv", score_LHK.softmax(dim=2), v_KHV))
        lse.append(score_LHK.logsumexp(dim=2))
    if not out:
        width = key_sets[0].v_PHE.shape[2]
        return q_NLHE.new_zeros(*q_NLHE.shape[:3], width), q_NLHE.new_zeros(q_NLHE.shape[:3])
    return torch.stack(out), torch.stack(lse)


def _ranges(key_set: KeySet, num_impressions: int) -> list[tuple[int, int]]:
    offsets = key_set.offsets_S1.tolist()
    return [(offsets[s], offsets[s + 1]) for s in segment_of_impression(key_set, num_impressions).tolist()]
