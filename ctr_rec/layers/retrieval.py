"""GSU: the events of a long history that a candidate is searched for with (SIM; MUSE, arXiv 2512.07216; EST's B_c).

What is found is a function of the visible history and the candidate alone, without any gradient, so it can be computed
once per impression ahead of a run.

Legend: M distinct items, N impressions, P (impression, event) pairs, C width of what is compared, W words of a set.
"""

from __future__ import annotations

from enum import Enum

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from ctr_rec.batch.batch import Batch, Ids, Jagged
from ctr_rec.config import Config
from ctr_rec.errors import ConfigError
from ctr_rec.layers.behaviours import Sequences
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.similarity import GRID, similarities
from ctr_rec.ops.jagged import segment_of_row
from ctr_rec.schema.log import Feature, Kind
from ctr_rec.schema.table import SparseSpec

# Entries of a padded block of scores, 32 MB of integers.
_MOST_PADDED = 2**22
_BITS = 63


class Search(str, Enum):
    """CONTENT: inner product of frozen content vectors. ID: cosine of embeddings. CATEGORY: hard, any value shared."""

    CONTENT = "content"
    ID = "id"
    CATEGORY = "category"


class RetrievalSettings(Config):
    """Which events of `channel` a candidate retrieves: at most `most`, those most alike, of equals the newest.

    by: how they are compared, by the item feature `feature`: its vector, its embedding or its values. Searching by
    category keeps the newest of the events that share a value with the candidate.
    Where content vectors or the category are unknown, on either side, nothing is retrieved [ours].
    """

    channel: str = "lifelong"
    most: int = Field(default=50, ge=1)
    by: Search = Search.CONTENT
    feature: str = "content"


def retrieve(settings: RetrievalSettings, embedded: Embedded | None, batch: Batch) -> Sequences:
    """The retrieved events of every impression, oldest first, each impression's own sequence.

    embedded: read by a search by id alone; without it such a search finds the newest events, as many as it would.
    """
    history = batch.histories[settings.channel]
    with torch.no_grad():
        score_P = _score(settings, embedded, batch, history)
        chosen_P = best(score_P, history.offsets, settings.most)
    count_P1 = functional.pad(chosen_P.cumsum(0), (1, 0))
    return Sequences(history.values[chosen_P], count_P1[history.offsets])


def best(score_P: Tensor, offsets_N1: Tensor, most: int) -> Tensor:
    """Which rows are among the `most` largest of their segment, bool [P]; of equals the last. -inf is never chosen.

    Told apart on the grid of `similarities`. They lie between -1000 and 1000, where any is -inf between -4 and 1000.
    """
    length_N = offsets_N1.diff()
    possible_P = score_P > -torch.inf
    # One integer that orders by score, then by place: no two are equal, so the outcome rests on no kernel's order.
    cell_P = score_P.masked_fill(~possible_P, -4).div(GRID).round().long()
    key_P = cell_P * 2**32 + torch.arange(len(cell_P), device=cell_P.device)
    floor_N = torch.full_like(length_N, torch.iinfo(torch.int64).min)
    long_L = (length_N > most).nonzero().squeeze(1)
    long_L = long_L[length_N[long_L].argsort(descending=True)]
    first = 0
    while first < len(long_L):
        longest = int(length_N[long_L[first]])
        part_B = long_L[first : first + max(1, _MOST_PADDED // longest)]
        step_K = torch.arange(longest, device=key_P.device)
        inside_BK = step_K < length_N[part_B, None]
        place_BK = (offsets_N1[part_B, None] + step_K).clamp_(max=len(key_P) - 1)
        key_BK = key_P[place_BK].masked_fill_(~inside_BK, torch.iinfo(torch.int64).min)
        floor_N[part_B] = key_BK.topk(most, dim=1, sorted=True).values[:, -1]
        first += len(part_B)
    return possible_P & (key_P >= floor_N[segment_of_row(offsets_N1)])


def _score(settings: RetrievalSettings, embedded: Embedded | None, batch: Batch, history: Jagged) -> Tensor:
    item_P = batch.event_item[history.values]
    if settings.by is Search.CATEGORY:
        impression_P = segment_of_row(history.offsets)
        ids = batch.items.ids[settings.feature]
        return _shares(ids, batch.tables[ids.table], batch.impression_item[impression_P], item_P)
    if settings.by is Search.ID and embedded is None:
        return torch.zeros(len(item_P), device=item_P.device)
    if settings.by is Search.ID:
        assert embedded is not None
        x_MC = functional.normalize(embedded.items[settings.feature].detach(), dim=-1)
    else:
        x_MC = batch.items.vectors[settings.feature]
    return similarities(x_MC, batch.impression_item, item_P, history.offsets)


def _shares(ids: Ids, rows_R: Tensor, a_P: Tensor, b_P: Tensor) -> Tensor:
    """0 where items a and b have a known value in common, else -inf. float [P]."""
    none = torch.tensor(-torch.inf, device=a_P.device)
    if ids.offsets is None:
        value_P = ids.index[a_P]
        return torch.where((value_P == ids.index[b_P]) & (rows_R[value_P] != 0), 0.0, none)
    # Values as bits of a few integers: two items have one in common where the bits do.
    item_V = segment_of_row(ids.offsets)
    known_V = rows_R[ids.index] != 0
    item_V, value_V = item_V[known_V], ids.index[known_V]
    words = -(-len(rows_R) // _BITS)
    bits_MW = torch.zeros(len(ids.offsets) - 1, words, _BITS, dtype=torch.int64, device=a_P.device)
    bits_MW[item_V, value_V // _BITS, value_V % _BITS] = 1
    bits_MW = (bits_MW << torch.arange(_BITS, device=a_P.device)).sum(-1)
    common_P = torch.zeros(len(a_P), dtype=torch.bool, device=a_P.device)
    for word_M in bits_MW.unbind(1):
        common_P |= (word_M[a_P] & word_M[b_P]) != 0
    return torch.where(common_P, 0.0, none)


def check_retrieval(settings: RetrievalSettings, spec: SparseSpec, channels: tuple[str, ...], tower: str) -> None:
    """Raises ConfigError for a channel or an item feature that is not there, or cannot be searched by."""
    if settings.channel not in channels:
        raise ConfigError(
            f"{tower} retrieves from the channel {settings.channel!r}, data.channels has {sorted(channels) or 'none'}; "
            "add it with a large `last`, or name another in the retrieval's `channel`"
        )
    fits = [f.name for f in spec.item if _fits(f, settings.by)]
    if settings.feature not in fits:
        raise ConfigError(
            f"{tower} retrieves by {settings.by.value} of the item feature {settings.feature!r}, the log's item "
            f"features that fit are {fits or 'none'}; name one in the retrieval's `feature`, or set another `by`"
        )


def _fits(feature: Feature, by: Search) -> bool:
    if by is Search.CONTENT:
        return feature.kind is Kind.VECTOR
    return feature.table is not None
