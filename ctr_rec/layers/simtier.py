"""SimTier: how many past events lie in each tier of likeness to the candidate (arXiv 2407.19467; MUSE's code).

Legend: N impressions, P (impression, event) pairs, T tiers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctr_rec.ops.jagged import segment_of_row

_STEPS = 10  # 1 / eps
TIERS = 2 * _STEPS + 2


class SimTier(nn.Module):
    """[N, T]: log(count_t + 1) * e_t, where a cosine r lies in tier ceil(r / eps) + 1 / eps, eps = 0.1.

    22 tiers, as MUSE's code has them: -1 is tier 0 and 1 tier 20; the last is for a product that rounding puts above 1.
    e is learnt, uniform in (0, 1) at first. One of these for each sequence.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight_T = nn.Parameter(torch.rand(TIERS))

    def forward(self, similarity_P: Tensor, offsets_N1: Tensor) -> Tensor:
        """similarity_P: -inf where it is not known; such a pair counts in no tier."""
        return tier_counts(similarity_P, offsets_N1).to(self.weight_T.dtype).log1p() * self.weight_T


def tier_counts(similarity_P: Tensor, offsets_N1: Tensor) -> Tensor:
    """Pairs of each impression in each tier, int64 [N, T]."""
    known_P = similarity_P > -torch.inf
    tier_P = (similarity_P[known_P] * _STEPS).ceil().long().add_(_STEPS).clamp_(0, TIERS - 1)
    row_P = segment_of_row(offsets_N1)[known_P]
    num_impressions = len(offsets_N1) - 1
    return torch.bincount(row_P * TIERS + tier_P, minlength=num_impressions * TIERS).view(num_impressions, TIERS)
