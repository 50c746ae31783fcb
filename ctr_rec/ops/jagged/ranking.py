"""Cosines that are exact, and integers that rank them without ties: the nearer first, of equals the later position.

Why: in floating point a product of two rows differs in its last bits with the shape of the matrix it is computed in, so
what an impression finds would depend on who is in its batch, and equal rows (two events of one item) would be ordered
by chance. Unit vectors rounded to 2^-25 multiply to multiples of 2^-50, and their sums stay below 2: float64 holds
all of them exactly, in whatever order they are added. The price is a product in float64, twice the time of float32.

Legend: B, Q, K problems, queries and keys of a bucket; R rows, C width.
"""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.weak import WeakTensorKeyDictionary

STEPS = 1 << 28
"""Steps of a cosine between 0 and 1 in a rank."""
_GRID = 1 << 25
_PLACES = 1 << 32
MOST_ENTRIES = 1 << 24
"""Of a table of candidates by items, in float64: 128 MB."""
NOTHING = -1
"""Rank of a pair that does not count."""


# Of tensors that are alive: their version and what `unit` made of them. All sequences and mechanisms of a model ask for
# a batch's contents.
_made: MutableMapping[Tensor, tuple[int, tuple[Tensor, Tensor]]] = WeakTensorKeyDictionary()


def unit(x_RC: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of length 1 in float64, rounded to 2^-25, and which rows have a direction at all: bool [R].

    Made once for a tensor, for as long as it lives and is not written to by PyTorch: what is written to its memory
    past PyTorch, through an array that shares it, is not noticed. The result is not to be written over.
    """
    if x_RC.is_inference():  # has no version
        return _unit(x_RC.to(torch.float64))
    now = x_RC._version
    version, made = _made.get(x_RC, (-1, None))
    if made is None or version != now:
        made = _unit(x_RC.detach().to(torch.float64))
        _made[x_RC] = now, made
    return made


def _unit(x_RC: Tensor) -> tuple[Tensor, Tensor]:
    unit_RC = normalize(x_RC, dim=1, eps=torch.finfo(torch.float64).tiny)
    return unit_RC.mul_(_GRID).round_().div_(_GRID), x_RC.ne(0).any(dim=1)


def rank_of(similarity_BQK: Tensor, hidden_BQK: Tensor) -> Tensor:
    """int64 [B, Q, K], larger is better, no two of a row alike but `NOTHING`. Overwrites its input."""
    rank_BQK = similarity_BQK.mul_(STEPS).round_().to(torch.int64).add_(STEPS * 2).mul_(_PLACES)
    rank_BQK += torch.arange(rank_BQK.shape[2], device=rank_BQK.device)
    return rank_BQK.masked_fill_(hidden_BQK, NOTHING)


def similarity_of(rank: Tensor) -> Tensor:
    """The rounded similarity that a rank was made of; 0 for `NOTHING`. float32."""
    steps = torch.div(rank, _PLACES, rounding_mode="floor") - STEPS * 2
    return (steps.to(torch.float64) / STEPS).masked_fill(rank == NOTHING, 0).to(torch.float32)


def place_of(rank: Tensor) -> Tensor:
    """The position among the keys that a rank was made of; meaningless for `NOTHING`."""
    return rank % _PLACES


def largest(rank_BQK: Tensor, k: int) -> Tensor:
    """The k largest of each row, best first, filled up with `NOTHING`: int64 [B, Q, k]."""
    found = rank_BQK.topk(min(k, rank_BQK.shape[2]), dim=2).values
    if found.shape[2] == k:
        return found
    return torch.nn.functional.pad(found, (0, k - found.shape[2]), value=NOTHING)
