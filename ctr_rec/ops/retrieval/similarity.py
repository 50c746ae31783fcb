"""Soft search: the events of largest cosine with the candidate.

Legend: N impressions, C width, M key rows, T events, P pairs, N1 = N + 1; B, Q and U blocks of a bucket, impressions of
a piece and events; I distinct items of the events.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ctr_rec.errors import ConfigError
from ctr_rec.ops.jagged import check_index, distinct
from ctr_rec.ops.jagged.ranking import MOST_ENTRIES, rank_of, similarity_of, unit
from ctr_rec.ops.retrieval.reference import reference_top_k
from ctr_rec.ops.retrieval.views import Retrieved, View, check_histories

Backend = Literal["auto", "bucketed", "reference"]
BACKENDS = ("auto", "bucketed", "reference")
Scores = Callable[[View], tuple[Tensor, Tensor]]
"""Cosines of a view, float64 [B, Q, U], free to be written over, and which events have a vector, bool [B, U]."""

# Gathering an event's vector costs as much as so many products of two vectors that lie in place (384 wide, one core).
_GATHER = 64


@torch.no_grad()
def top_k_by_similarity(
    query_NC: Tensor,
    key_MC: Tensor,
    item_T: Tensor | None,
    values_P: Tensor,
    offsets_N1: Tensor,
    k: int,
    backend: Backend = "auto",
) -> Retrieved:
    """The k events of each impression's history nearest to its candidate, oldest first; fewer where it has fewer.

    query_NC: float [N, C], vector of each candidate. key_MC: float [M, C], vectors of events, or of items with item_T
    int [T], the row of each event (None: event t is row t). Content vectors or ID embeddings, of any length: the score
    is their cosine. values_P, offsets_N1: positions of each history among the events, rising (`Batch.histories`).

    A zero vector is never retrieved and retrieves nothing. A negative cosine is no obstacle: papers give no threshold.
    Cosines are exact to 2^-25; of equals the newer event is taken. No gradient. Histories that overlap, as those of
    one user's impressions do, are computed by one matrix product, a piece of it at a time.

    Raises ValueError for shapes, rows, offsets or histories that do not belong together, ConfigError for k below 1 or a
    backend that does not exist.
    """
    _check_vectors(query_NC, key_MC)
    num_events = len(key_MC) if item_T is None else len(item_T)
    if item_T is not None:
        check_index("item_T", item_T, len(key_MC))
    histories = check_histories("top_k_by_similarity", values_P, offsets_N1, len(query_NC), num_events, k)
    check_backend("top_k_by_similarity", backend)
    if backend == "reference":
        return Retrieved(*reference_top_k(query_NC, key_MC, item_T, values_P, offsets_N1, k))
    (query_NC, asks_N), (key_MC, has_M) = unit(query_NC), unit(key_MC)
    items = None if item_T is None else distinct(item_T, len(key_MC))
    if items is not None and _worth_a_table(len(query_NC), len(items[0]), num_events):
        scores = _by_table(query_NC, key_MC, has_M, *items)
    else:
        scores = _by_view(query_NC, key_MC, has_M, item_T)

    def rank(view: View, hidden_BQU: Tensor) -> Tensor:
        similarity_BQU, has_BU = scores(view)
        hidden_BQU = hidden_BQU | ~has_BU[:, None] | ~asks_N[view.impression_BQ].unsqueeze(2)
        return rank_of(similarity_BQU, hidden_BQU)

    found_R, found_N1, rank_R = histories.search(k, rank)
    return Retrieved(found_R, found_N1, similarity_of(rank_R))


def _worth_a_table(num_queries: int, num_items: int, num_events: int) -> bool:
    """Whether all candidates by all items cost less than gathering the vector of every event.

    So it is in a shuffled batch, where one candidate looks at one user's events, and many users saw the same items. A
    request of few candidates may take either way, at about the same cost.
    """
    return num_queries * num_items <= min(MOST_ENTRIES, _GATHER * num_events)


def _by_table(query_NC: Tensor, key_MC: Tensor, has_M: Tensor, row_I: Tensor, item_T: Tensor) -> Scores:
    """One product of all candidates and distinct items; a view gathers numbers from it. item_T: places in row_I."""
    table_NI, has_T = query_NC @ key_MC[row_I].T, has_M[row_I][item_T]

    def scores(view: View) -> tuple[Tensor, Tensor]:
        place_BQU = (view.impression_BQ * len(row_I)).unsqueeze(2) + item_T[view.event_BU][:, None]
        return table_NI.take(place_BQU), has_T[view.event_BU]

    return scores


def _by_view(query_NC: Tensor, key_MC: Tensor, has_M: Tensor, item_T: Tensor | None) -> Scores:
    """A product for each view, of vectors gathered once for all pieces of a bucket."""
    gathered: dict[int, tuple[Tensor, Tensor]] = {}

    def keys_of(event_BU: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors [B, C, U] and whether there are any [B, U]."""
        if id(event_BU) not in gathered:
            gathered.clear()
            row = event_BU.flatten() if item_T is None else item_T[event_BU.flatten()]
            key_BUC = key_MC.index_select(0, row).view(*event_BU.shape, -1)
            gathered[id(event_BU)] = key_BUC.transpose(1, 2), has_M[row].view(event_BU.shape)
        return gathered[id(event_BU)]

    def scores(view: View) -> tuple[Tensor, Tensor]:
        key_BCU, has_BU = keys_of(view.event_BU)
        return torch.bmm(query_NC[view.impression_BQ], key_BCU), has_BU

    return scores


def check_backend(op: str, backend: str) -> None:
    if backend not in BACKENDS:
        raise ConfigError(f"{op}: backend must be one of {BACKENDS}, got: {backend!r}")


def _check_vectors(query_NC: Tensor, key_MC: Tensor) -> None:
    fit = query_NC.dim() == key_MC.dim() == 2 and query_NC.shape[1] == key_MC.shape[1]
    if not fit or not query_NC.is_floating_point() or query_NC.dtype != key_MC.dtype:
        raise ValueError(
            "top_k_by_similarity: query_NC and key_MC must be [N, C] and [M, C] of one floating type, got: "
            f"{query_NC.dtype} {tuple(query_NC.shape)} and {key_MC.dtype} {tuple(key_MC.shape)}"
        )
