"""A jagged set of keys and values, and the checks at the door.

Legend: P keys of a set, S its segments, S1 = S + 1, N impressions, L queries of each, H heads, E width of queries and
keys, V width of values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctr_rec.ops.jagged import check_index, check_offsets


@dataclass(frozen=True)
class KeySet:
    """Keys and values in segments; impression n reads segment `segment_N[n]`, or segment n where that is None.

    k_PHE, v_PHE: float [P, H, E] and [P, H, V]; the widths may differ. offsets_S1: int64 [S + 1], segment s is
    offsets[s] : offsets[s + 1]. segment_N: int64 [N]; several impressions may read one segment, whose keys are then
    neither copied nor stored for each of them.
    """

    k_PHE: Tensor
    v_PHE: Tensor
    offsets_S1: Tensor
    segment_N: Tensor | None = None


def check_set(name: str, key_set: KeySet, q_NLHE: Tensor) -> None:
    """Raises ValueError where a set does not fit the queries or itself."""
    k, v = key_set.k_PHE, key_set.v_PHE
    num_heads, width = q_NLHE.shape[2:]
    if k.dim() != 3 or k.shape[1:] != (num_heads, width):
        raise ValueError(
            f"cross_attention: {name}.k_PHE must have shape [P, {num_heads}, {width}] to fit q_NLHE, "
            f"got: {tuple(k.shape)}"
        )
    if v.dim() != 3 or v.shape[:2] != k.shape[:2]:
        raise ValueError(
            f"cross_attention: {name}.v_PHE must have shape [{k.shape[0]}, {num_heads}, V] to fit k_PHE, "
            f"got: {tuple(v.shape)}"
        )
    for tensor_name, tensor in (("k_PHE", k), ("v_PHE", v)):
        if tensor.dtype != q_NLHE.dtype:
            raise ValueError(
                f"cross_attention: {name}.{tensor_name} must have the dtype of q_NLHE, {q_NLHE.dtype}, "
                f"got: {tensor.dtype}; cast one of them"
            )
    check_offsets(key_set.offsets_S1, len(k))
    num_segments, num_impressions = len(key_set.offsets_S1) - 1, len(q_NLHE)
    if key_set.segment_N is None:
        if num_segments != num_impressions:
            raise ValueError(
                f"cross_attention: {name} without segment_N must have one segment for each of {num_impressions} "
                f"impressions, got: {num_segments}; pass segment_N where impressions share segments"
            )
        return
    check_index(f"{name}.segment_N", key_set.segment_N, num_segments)
    if len(key_set.segment_N) != num_impressions:
        raise ValueError(
            f"cross_attention: {name}.segment_N must have one entry for each of {num_impressions} impressions, "
            f"got: {len(key_set.segment_N)}"
        )


def segment_of_impression(key_set: KeySet, num_impressions: int) -> Tensor:
    if key_set.segment_N is None:
        return torch.arange(num_impressions, device=key_set.offsets_S1.device)
    return key_set.segment_N.to(torch.int64)
