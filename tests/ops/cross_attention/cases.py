"""Inputs of cross-attention: odd lengths, nothing at all, shared segments, several sets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctr_rec.ops.cross_attention import KeySet

HEADS, WIDTH, VALUES = 2, 3, 5
SCALE = 0.7


@dataclass(frozen=True)
class Case:
    """Queries and sets; `leaves` are what gradients reach."""

    q: Tensor
    sets: list[KeySet]

    @property
    def leaves(self) -> list[Tensor]:
        return [self.q, *(x for s in self.sets for x in (s.k_PHE, s.v_PHE))]


def offsets_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)


def make_set(
    lengths: list[int],
    segments: list[int] | None = None,
    *,
    heads: int = HEADS,
    dtype: torch.dtype = torch.float64,
    width: int = WIDTH,
    values: int = VALUES,
) -> KeySet:
    k, v = (torch.randn(sum(lengths), heads, w, dtype=dtype).requires_grad_() for w in (width, values))
    segment_N = None if segments is None else torch.tensor(segments, dtype=torch.int64)
    return KeySet(k, v, offsets_of(lengths), segment_N)


def make_case(
    num: int,
    sets: list[tuple[list[int], list[int] | None]],
    *,
    queries: int = 4,
    heads: int = HEADS,
    dtype=torch.float64,
) -> Case:
    q = torch.randn(num, queries, heads, WIDTH, dtype=dtype).requires_grad_()
    return Case(q, [make_set(*one, heads=heads, dtype=dtype) for one in sets])


CASES: dict[str, tuple[int, list[tuple[list[int], list[int] | None]]]] = {
    "odd": (5, [([3, 0, 1, 7, 2], None)]),
    "one segment read by all": (5, [([9], [0, 0, 0, 0, 0])]),
    "shared, unordered, some unread": (6, [([3, 5, 0, 4], [3, 0, 3, 2, 0, 3])]),
    "two sets": (4, [([6, 2], [0, 1, 1, 0]), ([1, 0, 5, 3], None)]),
    "three sets, one empty": (3, [([2, 2, 2], None), ([0], [0, 0, 0]), ([4, 1], [1, 1, 1])]),
    "no key": (3, [([0, 0, 0], None)]),
    "no impression": (0, [([], None)]),
    "no impression, keys": (0, [([4, 1], [])]),
    "single": (1, [([1], None)]),
    "many buckets": (40, [([i * 7 % 31 for i in range(40)], None), ([40, 3, 17], [i * i % 3 for i in range(40)])]),
}
