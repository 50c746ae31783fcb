"""The plain truth: one impression at a time. Legend: see `similarity.py` and `matching.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ctr_rec.ops.jagged.ranking import STEPS

if TYPE_CHECKING:
    from ctr_rec.ops.retrieval.matching import Categories

Found = list[tuple[int, float]]


def reference_top_k(
    query_NC: Tensor, key_MC: Tensor, item_T: Tensor | None, values_P: Tensor, offsets_N1: Tensor, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    found = []
    for n, positions in enumerate(_histories(values_P, offsets_N1)):
        query, scored = query_NC[n].double(), []
        for t in positions:
            key = key_MC[t if item_T is None else int(item_T[t])].double()
            if query.norm() > 0 and key.norm() > 0:
                scored.append((round(float(query @ key / (query.norm() * key.norm())) * STEPS), t))
        found.append(sorted((t, steps / STEPS) for steps, t in sorted(scored, reverse=True)[:k]))
    return _jagged(found)


def reference_matching(
    category_N: Categories, category_T: Categories, values_P: Tensor, offsets_N1: Tensor, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    wanted, offered = _sets(category_N), _sets(category_T)
    found = []
    for n, positions in enumerate(_histories(values_P, offsets_N1)):
        found.append([(t, 1.0) for t in positions if wanted[n] & offered[t]][-k:])
    return _jagged(found)


def _histories(values_P: Tensor, offsets_N1: Tensor) -> list[list[int]]:
    return [part.tolist() for part in values_P.split(offsets_N1.diff().tolist())]


def _sets(categories: Categories) -> list[set[int]]:
    if categories.offsets is None:
        return [{i} for i in categories.ids.tolist()]
    return [set(part.tolist()) for part in categories.ids.split(categories.offsets.diff().tolist())]


def _jagged(found: list[Found]) -> tuple[Tensor, Tensor, Tensor]:
    offsets_N1 = torch.tensor([0, *(len(one) for one in found)], dtype=torch.int64).cumsum(0)
    values = torch.tensor([t for one in found for t, _ in one], dtype=torch.int64)
    return values, offsets_N1, torch.tensor([score for one in found for _, score in one], dtype=torch.float32)
