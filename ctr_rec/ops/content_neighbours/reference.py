"""The plain truth: one event at a time, any dtype.

Legend: M content rows, C width of content, P events, S1 sequences and one, K neighbours, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctr_rec.ops.jagged.ranking import STEPS


def reference_neighbours(content_MC: Tensor, item_P: Tensor, offsets_S1: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """index [P, K] and weight [P, K]."""
    index_PK = torch.arange(len(item_P), device=item_P.device)[:, None].repeat(1, k)
    weight_PK = torch.zeros(len(item_P), k, device=item_P.device)
    offsets = offsets_S1.tolist()
    for start, end in zip(offsets[:-1], offsets[1:], strict=True):
        rows = content_MC[item_P[start:end]].double()
        length = rows.norm(dim=1)
        for i in range(end - start):
            found = []
            for j in range(end - start):
                if length[i] > 0 and length[j] > 0:
                    cosine = float(rows[i] @ rows[j] / (length[i] * length[j]))
                    found.append((round(cosine * STEPS), start + j))
            for place, (steps, j) in enumerate(sorted(found, reverse=True)[:k]):
                index_PK[start + i, place], weight_PK[start + i, place] = j, steps / STEPS
    return index_PK, weight_PK


def reference_neighbour_sum(x_PD: Tensor, index_PK: Tensor, weight_PK: Tensor) -> Tensor:
    return (x_PD[index_PK] * weight_PK.to(x_PD.dtype).unsqueeze(2)).sum(dim=1)
