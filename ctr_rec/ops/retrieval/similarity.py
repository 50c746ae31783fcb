"""Soft search: the events of largest cosine with the candidate.

Legend: N impressions, C width, M key rows, T events, P pairs, N1 = N + 1; B, Q and U blocks of a bucket, impressions of
a piece and events.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ctr_rec.errors import ConfigError
from ctr_rec.ops.jagged import check_index
from ctr_rec.ops.jagged.ranking import rank_of, similarity_of, unit
from ctr_rec.ops.retrieval.reference import reference_top_k
from ctr_rec.ops.retrieval.views import Retrieved, View, check_histories

Backend = Literal["auto", "bucketed", "reference"]
BACKENDS = ("auto", "bucketed", "reference")


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
    gathered: dict[int, tuple[Tensor, Tensor]] = {}

    def keys_of(event_BU: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors [B, C, U] and whether there are any [B, U], gathered once for all pieces of a bucket."""
        if id(event_BU) not in gathered:
            gathered.clear()
            row = event_BU.flatten() if item_T is None else item_T[event_BU.flatten()]
            key_BUC = key_MC.index_select(0, row).view(*event_BU.shape, -1)
            gathered[id(event_BU)] = key_BUC.transpose(1, 2), has_M[row].view(event_BU.shape)
        return gathered[id(event_BU)]

    def rank(view: View, hidden_BQU: Tensor) -> Tensor:
        key_BCU, has_BU = keys_of(view.event_BU)
        similarity_BQU = torch.bmm(query_NC[view.impression_BQ], key_BCU)
        hidden_BQU = hidden_BQU | ~has_BU[:, None] | ~asks_N[view.impression_BQ].unsqueeze(2)
        return rank_of(similarity_BQU, hidden_BQU)

    found_R, found_N1, rank_R = histories.search(k, rank)
    return Retrieved(found_R, found_N1, similarity_of(rank_R))


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
