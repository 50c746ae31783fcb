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
from ctr_rec.ops.jagged import gather, segment_sum
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
    shift_F = start_F - (length_F.cumsum(0) - length_F)
    row_P = torch.repeat_interleave(shift_F, length_F)
    row_P = row_P + torch.arange(len(row_P), device=row_P.device)
    length_N = torch.stack(lengths).sum(0)
    offsets_N1 = torch.cat([length_N.new_zeros(1), length_N.cumsum(0)])
    return row_P, Sequences(torch.cat([part.position_P for part in parts])[row_P], offsets_N1)


def per_impression(parts: Sequence[Behaviours], num_impressions: int) -> Behaviours:
    """The tokens of `side_by_side`: every impression has its own copy of what it reads."""
    row_P, sequences = side_by_side([part.sequences for part in parts], num_impressions)
    return Behaviours(gather(torch.cat([part.x_PD for part in parts]), row_P), sequences)


def mean_behaviour(behaviours: Behaviours) -> Tensor:
    """Mean of the tokens that an impression reads, [N, D]; zeros where there is none."""
    sequences = behaviours.sequences
    length_S = sequences.offsets_S1.diff()
    total_SD = segment_sum(behaviours.x_PD, sequences.offsets_S1)
    return sequences.per_impression(total_SD / length_S.clamp(min=1).to(total_SD.dtype).unsqueeze(-1))


def ranges_of(sequences: Sequences, segment_Q: Tensor) -> Ranges:
    """Each query sees the whole of one sequence. segment_Q: which, ascending, so that neighbours share keys."""
    lo_Q, hi_Q = sequences.offsets_S1[segment_Q], sequences.offsets_S1[segment_Q + 1]
    return Ranges(lo_Q, hi_Q, Pairs(lo_Q=lo_Q, hi_Q=hi_Q, num_keys=len(sequences.position_P)))
