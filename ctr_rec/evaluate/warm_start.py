"""`ctr-rec warm-start verify`: one validation batch, scored with warm-started tables and with the source's own vectors.

The run is built anew, warm-started and not trained; nothing is written. The second scoring takes each vector that the
batch needs straight from the source, id by id, by code that shares neither the index of ids nor the reading in spans
with the warm start. Same tower, same dense weights: every difference is the warm start's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ctr_rec.batch.batch import Batch
from ctr_rec.checkpoint.warm_start.config import WarmStart
from ctr_rec.checkpoint.warm_start.id_rule import id_rule
from ctr_rec.checkpoint.warm_start.opening import open_source
from ctr_rec.checkpoint.warm_start.source import Source, SourceTable
from ctr_rec.checkpoint.warm_start.straight import ids_of_rows, source_rows, straight_vector
from ctr_rec.checkpoint.warm_start.target import TargetTable, target_tables
from ctr_rec.config import load_recipe, override
from ctr_rec.errors import ConfigError, DataError
from ctr_rec.metrics.mergeable import all_metrics
from ctr_rec.sharding.group import open_group
from ctr_rec.sharding.tables import local_shards
from ctr_rec.train.build import Built, build
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.run import Run
from ctr_rec.train.warm_start import fill_tables, warm_start_of


@dataclass(frozen=True)
class TableCheck:
    """rows: of the table that the batch looks up. compared: of them, those with one source row. largest: difference of
    any number of any of their vectors."""

    table: str
    rows: int
    compared: int
    largest: float


@dataclass(frozen=True)
class Check:
    """logit: largest difference. ne, straight_ne: normalised entropy of the batch with either model's tables."""

    tables: tuple[TableCheck, ...]
    impressions: int
    logit: float
    ne: float
    straight_ne: float

    @property
    def vector(self) -> float:
        return max(t.largest for t in self.tables)


def verify(target: str, overrides: list[str]) -> Check:
    """Prints the differences and returns them. target: a run folder, or RECIPE.py:FUNCTION.

    Raises:
        ConfigError: the run has no warm start, or several ranks; and all that stops a warm start.
        DataError: the log has no validation impression.
    """
    run = RunFolder(Path(target)).load_run() if Path(target).is_dir() else load_recipe(target, Run)
    run = override(run, overrides)
    config = warm_start_of(run, target)
    with open_group() as group:
        if group.size > 1:
            raise ConfigError("warm-start verify compares one batch on one rank; start it without torchrun")
        built = build(run, group)
        fill_tables(config, built)
        check = compare(config, built)
    _print(check)
    return check


@torch.no_grad()
def compare(config: WarmStart, built: Built) -> Check:
    """Scores the first validation batch twice; leaves the source's vectors in the tables."""
    batch = next(iter(built.reader("valid", 0).batches(epoch=0)), None)
    if batch is None:
        raise DataError(
            f"the log {built.run.data.log} has no impression in its validation range; prepare another split"
        )
    model = built.parallel.model.eval()
    warm = model(batch.to(built.group.device)).float().cpu()
    source = open_source(config, built.group)
    tables = []
    for table in target_tables(built.spec, built.manifest, built.run.data.log):
        found = source.find(config.of(table.name).source or table.name)
        if found is not None and table.name not in config.skip:
            tables.append(_replace(config, built, source, found, table, _rows_of(batch, built, table.name)))
    straight = model(batch.to(built.group.device)).float().cpu()
    real = batch.weight > 0
    label, user = batch.label[real].numpy(), batch.user[batch.impression_user][real].numpy()
    ne, straight_ne = (float(all_metrics(label, x[real].numpy(), user)["ne"]) for x in (warm, straight))
    difference = float((warm - straight)[real].abs().max())
    return Check(tuple(tables), int(real.sum()), difference, ne, straight_ne)


def _rows_of(batch: Batch, built: Built, table: str) -> list[int]:
    """Rows of a table that a batch looks up."""
    if table in batch.tables:
        return batch.tables[table].tolist()
    features = [f.name for f in built.spec.bag_features() if f.table == table]
    return torch.cat([batch.user_bags[name].values for name in features]).unique().tolist()


def _replace(
    config: WarmStart, built: Built, source: Source, found: SourceTable, table: TargetTable, rows: list[int]
) -> TableCheck:
    """Writes the source's vectors over the table's and says how far they were apart."""
    settings = config.of(table.name)
    rule = id_rule(settings.ids, source, found, config)
    ids = ids_of_rows(table, rows)
    theirs = source_rows([text for texts in ids.values() for text in texts], rule)
    (weight,) = (s.weight for s in local_shards(built.parallel.model) if s.table == table.name)
    largest, compared = 0.0, 0
    for row, texts in ids.items():
        # A row of several ids may have several source rows; then the warm start's rule decides, not this check.
        places = set().union(*(theirs.get(text, set()) for text in texts))
        if len(places) == 1:
            vector = straight_vector(found.vectors, places.pop(), table.dim, settings).to(weight.device)
            largest = max(largest, _distance(weight[row], vector))
            weight[row] = vector
            compared += 1
    return TableCheck(table.name, len(rows), compared, largest)


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def _print(check: Check) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table("table", title=f"one validation batch, {check.impressions:,} impressions")
    for column in ("rows looked up", "rows compared", "largest difference"):
        shown.add_column(column, justify="right")
    for t in check.tables:
        shown.add_row(t.table, f"{t.rows:,}", f"{t.compared:,}", f"{t.largest:.3g}")
    console = Console()
    console.print(shown)
    console.print(
        f"largest difference of a looked-up vector {check.vector:.3g}, of a logit {check.logit:.3g}; ne "
        f"{check.ne:.6f} with warm-started tables, {check.straight_ne:.6f} with the source's vectors (change "
        f"{check.ne - check.straight_ne:+.3g})",
        highlight=False,
        soft_wrap=True,
    )
