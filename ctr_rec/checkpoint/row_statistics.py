"""What the rows of a stored table look like: norms, the largest rows, and rows that never moved. In bounded memory.

A row is dead when every optimizer state of it is zero: no gradient ever reached it. Plain SGD keeps no state, so there
the number of dead rows is not known (the vectors alone do not tell: initial values depend on the log's ids).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ctr_rec.checkpoint.tensors import StoredTable

# Norms are counted in bins of a twentieth of a decade between 1e-8 and 1e4; what lies outside goes to the outer bins.
LOWEST, HIGHEST, PER_DECADE = -8, 4, 20
BINS = (HIGHEST - LOWEST) * PER_DECADE
KEPT = 5


@dataclass
class RowStatistics:
    """Of the Euclidean norms of one table's rows.

    counts: [BINS] rows by log10 of the norm, rows of norm zero left out. zero, not_finite: rows that are all zero, or
    hold NaN or infinity. largest: (norm, row), largest first. dead: rows without any optimizer state, None where
    unknown.
    """

    rows: int = 0
    zero: int = 0
    not_finite: int = 0
    total: float = 0.0
    largest: list[tuple[float, int]] = field(default_factory=list)
    dead: int | None = None
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))

    @property
    def mean(self) -> float:
        """Over the rows that are finite."""
        return self.total / max(1, self.rows - self.not_finite)

    def quantile(self, share: float) -> float:
        """The norm that this share of the finite rows stays below: the middle of its bin, so to 6 percent."""
        finite = self.rows - self.not_finite
        if finite == 0:
            return float("nan")
        reached = self.zero + np.cumsum(self.counts)
        if share * finite <= self.zero:
            return 0.0
        return float(10 ** (edges()[int(np.searchsorted(reached, share * finite))] + 0.5 / PER_DECADE))

    def add(self, first: int, vectors_RD: Tensor, states: list[Tensor]) -> None:
        """Takes in rows first, first + 1, ...; states: of the same rows, [R] or [R, D]."""
        norms_R = torch.linalg.vector_norm(vectors_RD, dim=1, dtype=torch.float64).numpy()
        finite = np.isfinite(norms_R)
        positive = norms_R[finite & (norms_R > 0)]
        self.rows += len(norms_R)
        self.not_finite += int((~finite).sum())
        self.zero += int((norms_R == 0).sum())
        self.total += float(norms_R[finite].sum())
        place = np.floor((np.log10(positive) - LOWEST) * PER_DECADE).astype(np.int64)
        self.counts += np.bincount(np.clip(place, 0, BINS - 1), minlength=BINS)
        top = np.argsort(np.where(finite, norms_R, -1.0))[-KEPT:]
        found = [(float(norms_R[i]), first + int(i)) for i in top if finite[i]]
        self.largest = heapq.nlargest(KEPT, [*self.largest, *found])
        if states:
            still = [(state.reshape(len(state), -1) == 0).all(dim=1) for state in states]
            self.dead = (self.dead or 0) + int(torch.stack(still).all(dim=0).sum())


def edges() -> np.ndarray:
    """[BINS + 1] of log10 of the norm."""
    return np.linspace(LOWEST, HIGHEST, BINS + 1)


def row_statistics(table: StoredTable) -> RowStatistics:
    """Reads the table once, in slices. Raises CheckpointError where a file is damaged."""
    found = RowStatistics()
    for first, vectors, states in _slices(table):
        found.add(first, vectors, states)
    return found


def _slices(table: StoredTable) -> Iterator[tuple[int, Tensor, list[Tensor]]]:
    for first, vectors in table.weight.slices(table.rows_per_slice):
        yield first, vectors, [state.rows(first, len(vectors)) for state in table.states.values()]
