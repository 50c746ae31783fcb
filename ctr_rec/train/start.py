"""How tables begin again: initial values and no optimizer state, or the run's warm start with what it carried."""

from __future__ import annotations

from collections.abc import Sequence

from ctr_rec.errors import ConfigError
from ctr_rec.schema.table import Table
from ctr_rec.sharding.restart import restart_tables
from ctr_rec.train.build import Built
from ctr_rec.train.stage import Restart
from ctr_rec.train.warm_start import fill_again


def restarted(tables: Sequence[Table], restart: Restart) -> list[Table]:
    """The tables that begin again. Raises ConfigError when none is large enough: the strategy would do nothing."""
    found = [t for t in tables if t.rows >= restart.min_rows]
    if not found:
        largest = max(tables, key=lambda t: t.rows)
        raise ConfigError(
            f"train.sparse_reset.min_rows={restart.min_rows}, but no table has so many rows (the largest, "
            f"{largest.name}, has {largest.rows}), so nothing would begin again; lower it"
        )
    return found


def begin_again(built: Built, restart: Restart) -> list[str]:
    """Puts the tables of a restart back on this rank, values and optimizer state. Returns their names."""
    tables = restarted(built.spec.tables, restart)
    # Streams of initial values are keyed by a hash of the seed: no two seeds share any.
    seed = built.run.train.seed if restart.fresh is None else f"{built.run.train.seed}/{restart.fresh}"
    restart_tables(built.parallel, tables, seed, built.numbers)
    names = [t.name for t in tables]
    warm = built.run.warm_start
    if restart.fresh is None and warm is not None:
        fill_again(warm, built, names)
    return names
