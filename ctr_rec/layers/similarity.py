"""How alike a candidate and past events are, by vectors that receive no gradient.

Legend: M distinct items, N impressions, P (impression, event) pairs, C width of a vector.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctr_rec.ops.jagged import distinct
from ctr_rec.ops.jagged.ranking import MOST_ENTRIES, unit


def similarities(x_MC: Tensor, candidate_N: Tensor, item_P: Tensor, offsets_N1: Tensor) -> Tensor:
    """Cosine of each pair's candidate and item, [P] in float64; -inf where one of the two vectors is zero (unknown).

    candidate_N, item_P: rows of x_MC. offsets_N1: impression n has the pairs offsets[n] : offsets[n + 1]. Exact to
    2^-25, and so whatever else is in the batch (see `ops/jagged/ranking.py`). Computed as matrix products of distinct
    candidates by distinct items, in blocks of impressions, and gathered: a gather of vectors by pair would move C
    numbers for each pair.
    """
    x_MC, known_M = unit(x_MC)
    out_P = x_MC.new_empty(len(item_P))
    step, num_impressions = max(1, MOST_ENTRIES // max(1, len(x_MC))), len(candidate_N)
    for low in range(0, num_impressions, step):
        offsets_B1 = offsets_N1[low : low + step + 1]
        begin, end = int(offsets_B1[0]), int(offsets_B1[-1])
        row_R, row_B = distinct(candidate_N[low : low + step], len(x_MC))
        column_K, column_P = distinct(item_P[begin:end], len(x_MC))
        product_RK = x_MC[row_R] @ x_MC[column_K].T
        product_RK.masked_fill_(~(known_M[row_R, None] & known_M[column_K]), -torch.inf)
        row_P = row_B.repeat_interleave(offsets_B1.diff())
        torch.take(product_RK, row_P * len(column_K) + column_P, out=out_P[begin:end])
    return out_P
