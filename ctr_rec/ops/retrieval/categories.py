"""Categories of candidates and events, one or several each.

Legend: V ids, W most categories of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ctr_rec.ops.jagged import check_offsets, segment_of_row


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


def check_categories(name: str, categories: Categories) -> None:
    ids, offsets = categories
    if ids.dim() != 1 or ids.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"most_recent_matching: {name} must have a vector of int ids, got: {ids.dtype} {ids.shape}")
    if offsets is not None:
        check_offsets(offsets, len(ids))
    if ids.device.type == "cpu" and len(ids) and int(ids.min()) < 0:
        raise ValueError(f"most_recent_matching: {name} must have ids from 0, got: {int(ids.min())}; leave it out")
