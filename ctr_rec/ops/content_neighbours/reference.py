"""The plain truth: one event at a time, any dtype.

Legend: M content rows, C width of content, P events, K neighbours, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctr_rec.ops.jagged.ranking import STEPS


def reference_neighbours(
    content_MC: Tensor, item_P: Tensor, low_P: Tensor, high_P: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """index [P, K], nearest first, and weight [P, K]. Event p has the events low[p] : high[p] to choose from."""
    index_PK = torch.arange(len(item_P), device=item_P.device)[:, None].repeat(1, k)
    weight_PK = torch.zeros(len(item_P), k, device=item_P.device)
    row_PC = content_MC[item_P].double()
    length_P = row_PC.norm(dim=1)
    for i, (low, high) in enumerate(zip(low_P.tolist(), high_P.tolist(), strict=True)):
        found = []
        for j in range(low, high):
            if length_P[i] > 0 and length_P[j] > 0:
                cosine = float(row_PC[i] @ row_PC[j] / (length_P[i] * length_P[j]))
                found.append((round(cosine * STEPS), j))
        for place, (steps, j) in enumerate(sorted(found, reverse=True)[:k]):
            index_PK[i, place], weight_PK[i, place] = j, steps / STEPS
    return index_PK, weight_PK


def reference_neighbour_sum(x_PD: Tensor, index_PK: Tensor, weight_PK: Tensor) -> Tensor:
    return (x_PD[index_PK] * weight_PK.to(x_PD.dtype).unsqueeze(2)).sum(dim=1)
