"""Metrics over all ranks: rows are gathered, because AUC is not a mean of per-rank values.

The group of ranks is handed in by who owns it; this file knows two of its methods and no rank.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from ctr_rec.errors import DataError
from ctr_rec.metrics.mergeable import ExactMetrics, MetricDict
from ctr_rec.metrics.window import WindowMetrics


class Gathers(Protocol):
    """The part of a group of ranks that metrics need."""

    def gather_arrays(self, array: np.ndarray) -> np.ndarray:
        """Every rank's rows on every rank; ranks may hold different numbers of rows."""
        ...

    def all_gather_object(self, value: Any) -> list[Any]:
        """Every rank's small value, in rank order."""
        ...


def gather_metrics(state: ExactMetrics, group: Gathers) -> ExactMetrics:
    """A state with the rows of all ranks, on every rank; its metrics equal those of one process to the bit.

    A collective: all ranks call it, also those without a row.

    Raises:
        DataError: ranks hold user ids of different types.
    """
    arrays = state.to_arrays()
    kinds = group.all_gather_object({name: array.dtype.str for name, array in arrays.items()} if len(state) else None)
    held = [kind for kind in kinds if kind is not None]
    if not held:
        return ExactMetrics(state.score_kind)
    if len({tuple(sorted(kind)) for kind in held}) > 1:
        raise DataError(
            "group: expected user ids of one type, got integers and strings; give all ranks ids of one type"
        )
    widest = {name: np.result_type(*(np.dtype(kind[name]) for kind in held)) for name in held[0]}
    # Collectives run in the order of the names, which all ranks agree on.
    gathered = {
        name: group.gather_arrays(arrays[name].astype(dtype) if len(state) else np.empty(0, dtype))
        for name, dtype in sorted(widest.items())
    }
    return ExactMetrics.from_arrays(gathered, state.score_kind)


def gather_window(window: WindowMetrics, group: Gathers) -> MetricDict:
    """Metrics over the windows of all ranks, on every rank. A collective: all ranks call it."""
    gathered = {name: group.gather_arrays(array) for name, array in sorted(window.to_arrays().items())}
    return WindowMetrics.compute_merged([gathered], window.score_kind)
