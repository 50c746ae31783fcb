"""The signature: checks, choice of backend, and the two halves of the joint softmax.

Legend: N impressions, L queries of each, H heads, E width of queries and keys, V width of values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ctr_rec.ops.cross_attention.bucketed import BucketedAttention, merged
from ctr_rec.ops.cross_attention.choose import Backend, choose
from ctr_rec.ops.cross_attention.fbgemm import fbgemm_cross_attention
from ctr_rec.ops.cross_attention.keys import KeySet, check_set
from ctr_rec.ops.cross_attention.reference import reference_cross_attention
from ctr_rec.ops.jagged.buckets import make_plan


class Part(NamedTuple):
    """What queries read of some of their keys: out_NLHV [N, L, H, V], as if there were no others, and the log-sum-exp
    of their scores, lse_NLH [N, L, H] in float32 or more; zeros and -inf where there is no key. Nothing overflows."""

    out_NLHV: Tensor
    lse_NLH: Tensor


def cross_attention(q_NLHE: Tensor, key_sets: Sequence[KeySet], scale: float, backend: Backend = "auto") -> Tensor:
    """Each impression's queries attend to its keys in all sets, by one softmax over all of them.

    EST (arXiv 2602.10811, section on LCA): softmax(scale q.k) v with q from the impression's tokens and shared keys and
    values from its behaviours. The formula has one head and scale 1 / sqrt(d); here any number and any scale.

    q_NLHE: float [N, L, H, E]. key_sets: one or more, with values of one width V.
    Returns [N, L, H, V] in the dtype of q_NLHE. An impression without any key gets zeros, and gives none of its inputs
    a gradient. Gradients reach q, k and v, are deterministic, and are of first order.

    Raises ValueError for shapes, types, offsets or segments that do not belong together, ConfigError for a backend that
    is unknown or cannot compute the call.
    """
    _check(q_NLHE, key_sets)
    backend = choose(backend, q_NLHE.dtype)
    if backend == "reference":
        return reference_cross_attention(q_NLHE, key_sets, scale)[0]
    if backend == "fbgemm":
        return fbgemm_cross_attention(q_NLHE, key_sets, scale)
    return _bucketed(q_NLHE, key_sets, scale).out_NLHV


def partial(q_NLHE: Tensor, key_set: KeySet, scale: float) -> Part:
    """What the queries read of one set: `merge` of all sets' parts equals `cross_attention`. Gradients as there.

    Where the queries that a set meets are the same for many candidates, its part is computed once.
    """
    _check(q_NLHE, [key_set])
    return _bucketed(q_NLHE, [key_set], scale)


def merge(parts: Sequence[Part]) -> Part:
    """Parts of disjoint keys as the part of their union. Shapes may broadcast in N: one part for many candidates.

    Raises ValueError without any part.
    """
    if not parts:
        raise ValueError("merge: expected at least one part, got: none")
    return Part(*merged([(part.out_NLHV, part.lse_NLH) for part in parts]))


def _bucketed(q_NLHE: Tensor, key_sets: Sequence[KeySet], scale: float) -> Part:
    num_queries, num_heads = q_NLHE.shape[1:3]
    plans = [make_plan(s.offsets_S1, s.segment_N, num_queries, num_heads) for s in key_sets]
    tensors = [x for key_set in key_sets for x in (key_set.k_PHE, key_set.v_PHE)]
    # Types were settled at the door; under autocast the products would change them on the way.
    with torch.autocast(q_NLHE.device.type, enabled=False):
        return Part(*BucketedAttention.apply(plans, scale, q_NLHE, *tensors))


def _check(q_NLHE: Tensor, key_sets: Sequence[KeySet]) -> None:
    if q_NLHE.dim() != 4 or not q_NLHE.is_floating_point():
        raise ValueError(
            f"cross_attention: q_NLHE must be floating with shape [N, L, H, E], got: {q_NLHE.dtype} of shape "
            f"{tuple(q_NLHE.shape)}"
        )
    if not key_sets:
        raise ValueError("cross_attention: expected at least one key set, got: none; pass an empty one for no keys")
    for i, key_set in enumerate(key_sets):
        check_set(f"key_sets[{i}]", key_set, q_NLHE)
    widths = [key_set.v_PHE.shape[2] for key_set in key_sets]
    if len(set(widths)) > 1:
        raise ValueError(f"cross_attention: values of all sets must have one width, got: {widths}")
