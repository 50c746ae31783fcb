"""The K nearest events of each event, within its sequence: buckets of sequences, scores of a piece at a time.

Legend: M content rows, C width of content, P events, S sequences, S1 = S + 1, K neighbours; B, Q and L sequences of a
bucket, rows of a piece and events of the longest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from ctr_rec.errors import ConfigError
from ctr_rec.ops.content_neighbours.reference import reference_neighbours
from ctr_rec.ops.jagged import bag, check_index, check_offsets, segment_of_row
from ctr_rec.ops.jagged.buckets import Bucket, Plan, make_plan, pieces
from ctr_rec.ops.jagged.ranking import NOTHING, largest, place_of, rank_of, similarity_of, unit

Backend = Literal["auto", "bucketed", "reference"]


@dataclass(frozen=True)
class Neighbours:
    """index_PK: int64 [P, K], positions in the packed events. weight_PK: float32 [P, K], their cosine.

    Where an event has fewer than K neighbours the rest is its own position with weight 0.
    """

    index_PK: Tensor
    weight_PK: Tensor

    @cached_property
    def readers(self) -> bag.RowOrder:
        """Which entries of the flattened index point at each event, what a gradient sums over; once for all layers."""
        return bag.sort_by_row(self.index_PK.flatten(), len(self.index_PK))


@torch.no_grad()
def neighbours(content_MC: Tensor, item_P: Tensor, offsets_S1: Tensor, k: int, backend: Backend = "auto") -> Neighbours:
    """The K events of largest cosine of content in each event's sequence, itself among them, nearest first.

    content_MC: float [M, C], one row for each item, of any length; a zero row says that the item has none. item_P: int
    [P], row of each event. offsets_S1: int [S + 1], sequences of events, oldest first.

    An event without content neither has neighbours nor is one. A negative cosine is a weight like any other: the paper
    takes the top K without a threshold. Cosines are exact to 2^-25; of equals the later event comes first, so an
    event's nearest may be a later event of the same item. No gradient reaches the content.

    Time grows with the square of a sequence's length; memory does not, it is that of one piece of scores.

    Raises ValueError for shapes, rows or offsets that do not belong together, ConfigError for k below 1 or a backend
    that does not exist.
    """
    check_inputs("neighbours", content_MC, item_P, k)
    check_offsets(offsets_S1, len(item_P))
    if backend not in ("auto", "bucketed", "reference"):
        raise ConfigError(f"neighbours: backend must be auto, bucketed or reference, got: {backend!r}")
    segment_P = segment_of_row(offsets_S1)
    if backend == "reference":
        low_P, high_P = offsets_S1[segment_P], offsets_S1[segment_P + 1]
        return Neighbours(*reference_neighbours(content_MC, item_P, low_P, high_P, k))
    unit_MC, has_M = unit(content_MC)
    plan = make_plan(offsets_S1, segment_P)
    rank_RK = torch.empty(plan.queries.size + 1, k, dtype=torch.int64, device=item_P.device)
    rank_RK[-1] = NOTHING
    for bucket in plan.buckets:
        rank_RK[bucket.query_start :][: (bucket.last - bucket.first) * bucket.queries] = _ranks(
            plan, bucket, unit_MC, has_M, item_P, k
        ).flatten(0, 1)
    rank_PK = rank_RK[plan.queries.back_RH[:, 0]]
    own_P1 = torch.arange(len(item_P), device=item_P.device)[:, None]
    index_PK = torch.where(rank_PK == NOTHING, own_P1, place_of(rank_PK) + offsets_S1[:-1][segment_P][:, None])
    return Neighbours(index_PK, similarity_of(rank_PK))


def check_inputs(op: str, content_MC: Tensor, item_P: Tensor, k: int) -> None:
    """What both searches for neighbours ask of contents, items and K."""
    if content_MC.dim() != 2 or not content_MC.is_floating_point():
        raise ValueError(
            f"{op}: content_MC must be floating with shape [M, C], got: {content_MC.dtype} of shape "
            f"{tuple(content_MC.shape)}"
        )
    check_index("item_P", item_P, len(content_MC))
    if k < 1:
        raise ConfigError(f"{op}: k must be 1 or more, got: {k}; switch neighbours off where none are wanted")


def _ranks(plan: Plan, bucket: Bucket, unit_MC: Tensor, has_M: Tensor, item_P: Tensor, k: int) -> Tensor:
    """Ranks of the nearest events of each event in a bucket, by place in the sequence: int64 [B, L, K]."""
    item_R = item_P[plan.keys.rows(bucket, bucket.keys)]
    unit_BLC = unit_MC.index_select(0, item_R).view(-1, bucket.keys, unit_MC.shape[1])
    without_BL = ~has_M[item_R].view(-1, bucket.keys)
    hidden_BL = without_BL | plan.keys.padding(bucket, bucket.keys)
    found = []
    for at in pieces(bucket, len(unit_BLC)):
        similarity_BQL = torch.bmm(unit_BLC[:, at], unit_BLC.transpose(1, 2))
        hidden_BQL = hidden_BL[:, None] | without_BL[:, at, None]
        found.append(largest(rank_of(similarity_BQL, hidden_BQL), k))
    return torch.cat(found, dim=1)
