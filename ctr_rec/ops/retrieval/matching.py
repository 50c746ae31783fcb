"""Hard search: the newest events of the candidate's category.

Legend: N impressions, T events, P pairs, N1 = N + 1, W most categories of a row; B, Q and U blocks of a bucket,
impressions of a piece and events.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ctr_rec.ops.jagged import check_offsets, segment_of_row
from ctr_rec.ops.jagged.ranking import NOTHING
from ctr_rec.ops.retrieval.reference import reference_matching
from ctr_rec.ops.retrieval.similarity import Backend, check_backend
from ctr_rec.ops.retrieval.views import Retrieved, View, check_histories

# No row's padding equals anything of the other side.
_NO_CATEGORY, _NO_OTHER = -1, -2


class Categories(NamedTuple):
    """ids int [V], none negative; offsets int [rows + 1], or None where each row has exactly one."""

    ids: Tensor
    offsets: Tensor | None = None

    @property
    def rows(self) -> int:
        return len(self.ids) if self.offsets is None else len(self.offsets) - 1

    def padded(self, value: int) -> Tensor:
        """[rows, W]."""
        if self.offsets is None:
            return self.ids[:, None]
        length = self.offsets.diff()
        row_V = segment_of_row(self.offsets)
        place_V = torch.arange(len(row_V), device=row_V.device) - self.offsets[:-1][row_V]
        padded = self.ids.new_full((self.rows, int(length.max()) if len(length) else 0), value)
        padded[row_V, place_V] = self.ids
        return padded


@torch.no_grad()
def most_recent_matching(
    category_N: Categories,
    category_T: Categories,
    values_P: Tensor,
    offsets_N1: Tensor,
    k: int,
    backend: Backend = "auto",
) -> Retrieved:
    """The k newest events of each impression's history that share a category with its candidate, oldest first.

    SIM's hard search (arXiv 2006.05639); with several categories one in common suffices [our reading]. category_N,
    category_T: of candidates and of events, ids of one vocabulary; a row without any matches nothing. values_P,
    offsets_N1: positions of each history among the events, rising. The score of what is found is 1. Memory: T x the
    most categories of an event, beside a piece of the pairs.

    Raises ValueError for ids, rows, offsets or histories that do not belong together, ConfigError for k below 1 or a
    backend that does not exist.
    """
    for name, categories in (("category_N", category_N), ("category_T", category_T)):
        _check_categories(name, categories)
    histories = check_histories("most_recent_matching", values_P, offsets_N1, category_N.rows, category_T.rows, k)
    check_backend("most_recent_matching", backend)
    if backend == "reference":
        return Retrieved(*reference_matching(category_N, category_T, values_P, offsets_N1, k))
    wanted_NW, offered_TW = category_N.padded(_NO_CATEGORY), category_T.padded(_NO_OTHER)

    def rank(view: View, hidden_BQU: Tensor) -> Tensor:
        matches_BQU = torch.zeros_like(hidden_BQU)
        for offered_BU in offered_TW[view.event_BU].unbind(2):
            for wanted_BQ in wanted_NW[view.impression_BQ].unbind(2):
                matches_BQU |= wanted_BQ.unsqueeze(2) == offered_BU[:, None]
        place_U = torch.arange(hidden_BQU.shape[2], device=hidden_BQU.device)
        return place_U.expand(hidden_BQU.shape).masked_fill(~matches_BQU | hidden_BQU, NOTHING)

    found_R, found_N1, _ = histories.search(k, rank)
    return Retrieved(found_R, found_N1, torch.ones(len(found_R), device=found_R.device))


def _check_categories(name: str, categories: Categories) -> None:
    ids, offsets = categories
    if ids.dim() != 1 or ids.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"most_recent_matching: {name} must have a vector of int ids, got: {ids.dtype} {ids.shape}")
    if offsets is not None:
        check_offsets(offsets, len(ids))
    if ids.device.type == "cpu" and len(ids) and int(ids.min()) < 0:
        raise ValueError(f"most_recent_matching: {name} must have ids from 0, got: {int(ids.min())}; leave it out")
