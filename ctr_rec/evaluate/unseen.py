"""Which impressions name an id that the model has no row for: a film of today, to a model of yesterday."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ctr_rec.batch.batch import Batch, Ids


def unseen(batch: Batch) -> Tensor:
    """Impressions with an id that is read as row 0 in the candidate, the request or the profile. bool [N].

    Row 0 stands for ids that the vocabulary does not know, and for those that were too rare to get a row. Ids of past
    events do not count. Tables with `hash_rows` have a row for every id.
    """
    item = _any(batch, batch.items.ids.values(), len(batch.item))
    user = torch.zeros(batch.num_users, dtype=torch.bool, device=batch.label.device)
    for bag in batch.user_bags.values():
        user |= _per_row(bag.values == 0, bag.offsets)
    request = _any(batch, batch.impressions.ids.values(), batch.num_impressions)
    return item[batch.impression_item] | user[batch.impression_user] | request


def _any(batch: Batch, features: Iterable[Ids], rows: int) -> Tensor:
    found = torch.zeros(rows, dtype=torch.bool, device=batch.label.device)
    for ids in features:
        zero = batch.tables[ids.table][ids.index] == 0
        found |= zero if ids.offsets is None else _per_row(zero, ids.offsets)
    return found


def _per_row(zero: Tensor, offsets: Tensor) -> Tensor:
    """Whether any value of a row is marked. zero: bool [V]. offsets: int64 [rows + 1]."""
    before = torch.cat([torch.zeros(1, dtype=torch.int64, device=zero.device), zero.cumsum(0)])
    return before[offsets[1:]] > before[offsets[:-1]]
