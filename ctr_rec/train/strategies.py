"""Strategies: functions from a run to its list of stages. The trainer runs the list and knows none of them."""

from __future__ import annotations

from collections.abc import Callable

from ctr_rec.errors import ConfigError
from ctr_rec.train.run import Run, SparseReset
from ctr_rec.train.stage import Restart, Stage


def joint(run: Run) -> list[Stage]:
    """Tables and dense weights train together on the same batches."""
    return [Stage(name="joint", epochs=run.train.epochs)]


def multi_epoch_sparse_reset(run: Run) -> list[Stage]:
    """Several epochs without over-fitted embeddings: large tables begin again at each one, all else goes on.

    MEDA (arXiv 2305.19531) draws the tables anew at random; EST (section 5.5) goes back to the same warm start in every
    epoch. What is served is the last epoch's tables. Optimizer state of a table begins again with it: an accumulator
    of gradients that no longer stand behind the values would only shorten the steps [ours].
    """
    reset = run.train.sparse_reset
    fresh = reset.to == "fresh"
    later = [Restart(min_rows=reset.min_rows, fresh=e if fresh else None) for e in range(1, run.train.epochs)]
    return [Stage(name=f"epoch {e}", epochs=1, restart=restart) for e, restart in enumerate([None, *later])]


STRATEGIES: dict[str, Callable[[Run], list[Stage]]] = {
    "joint": joint,
    "multi_epoch_sparse_reset": multi_epoch_sparse_reset,
}


def stages(run: Run) -> list[Stage]:
    """The stages of a run. Raises ConfigError for settings of another strategy, which would have no effect."""
    if run.train.sparse_reset != SparseReset() and run.train.strategy != "multi_epoch_sparse_reset":
        raise ConfigError(
            f"train.sparse_reset is set, but train.strategy={run.train.strategy} resets nothing; set train.strategy to "
            "multi_epoch_sparse_reset or remove it"
        )
    return STRATEGIES[run.train.strategy](run)
