"""GSU: the events of a long history that a candidate is searched for with (SIM; MUSE, arXiv 2512.07216; EST's B_c).

What is found is a function of the visible history and the candidate alone, without any gradient, so it can be computed
once per impression ahead of a run.

Legend: M distinct items, N impressions, P (impression, event) pairs, C width of what is compared, V values of sets, R
rows of a table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from ctr_rec.batch.batch import Batch, Ids
from ctr_rec.config import Config
from ctr_rec.errors import ConfigError
from ctr_rec.layers.behaviours import Sequences
from ctr_rec.layers.embedding import Embedded
from ctr_rec.ops.jagged import stretches
from ctr_rec.ops.retrieval import Categories, most_recent_matching, top_k_by_similarity
from ctr_rec.schema.log import Feature, Kind
from ctr_rec.schema.table import SparseSpec


class Search(str, Enum):
    """CONTENT: cosine of frozen content vectors. ID: cosine of embeddings. CATEGORY: hard, any value shared."""

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


@dataclass(frozen=True)
class Retrieval:
    """What every impression retrieves, oldest first, each its own sequence, and how alike it is to the candidate.

    similarity_P: cosine of what was compared, float32; 1 where a category is shared.
    """

    sequences: Sequences
    similarity_P: Tensor


def retrieve(settings: RetrievalSettings, embedded: Embedded | None, batch: Batch) -> Retrieval:
    """embedded: read by a search by id alone; without it such a search finds the newest events, as many as it would."""
    history, candidate_N = batch.histories[settings.channel], batch.impression_item
    if settings.by is Search.CATEGORY:
        ids = batch.items.ids[settings.feature]
        known = _known(ids, batch.tables[ids.table])
        wanted, offered = _of_rows(known, candidate_N), _of_rows(known, batch.event_item)
        found = most_recent_matching(wanted, offered, history.values, history.offsets, settings.most)
        return Retrieval(Sequences(found.values, found.offsets), found.score)
    if settings.by is Search.CONTENT:
        x_MC = batch.items.vectors[settings.feature]
    elif embedded is not None:
        x_MC = embedded.items[settings.feature].detach()
    else:
        x_MC = torch.ones(len(batch.item), 1, device=candidate_N.device)
    found = top_k_by_similarity(
        x_MC[candidate_N], x_MC, batch.event_item, history.values, history.offsets, settings.most
    )
    return Retrieval(Sequences(found.values, found.offsets), found.score)


def _known(ids: Ids, rows_R: Tensor) -> Categories:
    """Of each item its categories without row 0, which holds all that are unknown."""
    known_V = rows_R[ids.index] != 0
    if ids.offsets is None:
        return Categories(ids.index[known_V], functional.pad(known_V.cumsum(0), (1, 0)))
    return Categories(ids.index[known_V], functional.pad(known_V.cumsum(0), (1, 0))[ids.offsets])


def _of_rows(categories: Categories, row_P: Tensor) -> Categories:
    """Those of chosen items, one after another."""
    assert categories.offsets is not None
    row_V, offsets_P1 = stretches(categories.offsets[:-1][row_P], categories.offsets.diff()[row_P])
    return Categories(categories.ids[row_V], offsets_P1)


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
