"""Behaviour tokens of several sequences together: as one sequence of each impression, or as their mean.

Legend: N impressions, S sequences, P behaviour tokens, Q queries, D token width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ctr_rec.layers.behaviours import Sequences
from ctr_rec.layers.packed import Ranges
from ctr_rec.layers.token_inputs import Behaviours
from ctr_rec.ops.jagged import gather, segment_sum, stretches
from ctr_rec.ops.prefix_attention import Pairs


def side_by_side(parts: Sequence[Sequences], num_impressions: int) -> tuple[Tensor, Sequences]:
    """Each impression's own sequence, all parts one after another; and which row of all parts' rows each token is.

        parts               a b | c  and  d | e f
        impressions x, y    read segments 0, 0 of the first part and 0, 1 of the second
        sequences           a b d | a b e f

    At least one part.
    """
    starts, lengths, base = [], [], 0
    for part in parts:
        segment_N = part.segment_N
        if segment_N is None:
            segment_N = torch.arange(num_impressions, device=part.offsets_S1.device)
        starts.append(part.offsets_S1[:-1][segment_N] + base)
        lengths.append(part.offsets_S1.diff()[segment_N])
        base += len(part.position_P)
    start_F, length_F = (torch.stack(each, dim=1).flatten() for each in (starts, lengths))
    row_P, offsets_F1 = stretches(start_F, length_F)
    return row_P, Sequences(torch.cat([part.position_P for part in parts])[row_P], offsets_F1[:: len(parts)])


def per_impression(parts: Sequence[Behaviours], num_impressions: int) -> Behaviours:
    """The tokens of `side_by_side`: every impression has its own copy of what it reads."""
    row_P, sequences = side_by_side([part.sequences for part in parts], num_impressions)
    return Behaviours(gather(torch.cat([part.x_PD for part in parts]), row_P), sequences)


def mean_behaviour(*parts: Behaviours) -> Tensor:
    """Mean over all tokens that an impression reads, of whatever part, [N, D]; zeros where there is none.

    At least one part.
    """
    total_ND, count_N = [], []
    for part in parts:
        of, length_S = part.sequences, part.sequences.offsets_S1.diff()
        total_ND.append(of.per_impression(segment_sum(part.x_PD, of.offsets_S1)))
        count_N.append(length_S if of.segment_N is None else length_S[of.segment_N])
    return torch.stack(total_ND).sum(0) / torch.stack(count_N).sum(0).clamp(min=1).unsqueeze(-1)


def ranges_of(sequences: Sequences, segment_Q: Tensor) -> Ranges:
    """Each query sees the whole of one sequence. segment_Q: which, ascending, so that neighbours share keys."""
    lo_Q, hi_Q = sequences.offsets_S1[segment_Q], sequences.offsets_S1[segment_Q + 1]
    return Ranges(lo_Q, hi_Q, Pairs(lo_Q=lo_Q, hi_Q=hi_Q, num_keys=len(sequences.position_P)))
