"""A run's warm start: made before the first step of a fresh run, or only reported (`ctr-rec warm-start --dry-run`)."""

from __future__ import annotations

from collections.abc import Collection

from ctr_rec.checkpoint.warm_start import report
from ctr_rec.checkpoint.warm_start.apply import dry_run, warm_start
from ctr_rec.checkpoint.warm_start.config import WarmStart
from ctr_rec.checkpoint.warm_start.report import WarmStartReport
from ctr_rec.checkpoint.warm_start.target import target_tables
from ctr_rec.config import load_recipe, override
from ctr_rec.errors import ConfigError
from ctr_rec.files import write_json
from ctr_rec.schema.manifest import load_manifest
from ctr_rec.schema.table import sparse_spec
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.sharding.tables import is_table
from ctr_rec.train.build import Built, ranker_of
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.run import Run


def start_warm(config: WarmStart, built: Built, folder: RunFolder) -> WarmStartReport:
    """Fills the tables of a fresh model, prints the report and keeps it in the run. A collective."""
    found = fill_tables(config, built)
    if built.group.is_main:
        from rich.console import Console

        write_json(folder.path / report.FILE, found.model_dump(mode="json"))
        found.print(Console(stderr=True))
    built.group.barrier()
    return found


def fill_tables(config: WarmStart, built: Built) -> WarmStartReport:
    """The warm start alone. Raises as `ctr_rec.checkpoint.warm_start.apply.warm_start`, on all ranks."""
    tables = target_tables(built.spec, built.manifest, built.run.data.log)
    return warm_start(config, built.parallel, tables, built.manifest, built.run.sharding.optimizer.kind)


def fill_again(config: WarmStart, built: Built, names: Collection[str]) -> None:
    """Brings some tables back to their warm start, later in the run: all else stays. A collective."""
    wanted = set(names) - set(config.skip)
    tables = [t for t in target_tables(built.spec, built.manifest, built.run.data.log) if t.name in wanted]
    if tables:
        settings = {name: own for name, own in config.tables.items() if name in wanted}
        again = config.model_copy(update={"tables": settings, "skip": (), "dense": "none", "check": False})
        warm_start(again, built.parallel, tables, built.manifest, built.run.sharding.optimizer.kind)


def report_only(recipe: str, overrides: list[str]) -> WarmStartReport:
    """Prints what a warm start would do. Reads ids, builds no table, writes nothing.

    Raises:
        ConfigError: the recipe has no warm start; and all that would stop the warm start, as far as ids tell it.
    """
    run = override(load_recipe(recipe, Run), overrides)
    config = warm_start_of(run, recipe)
    manifest = load_manifest(run.data.log)
    spec = sparse_spec(manifest, run.embedding)
    # Tables stay on "meta": only the shapes of the other weights are asked for.
    state = ranker_of(run, spec).state_dict()
    dense = {name: tuple(value.shape) for name, value in state.items() if not is_table(name)}
    with open_group("cpu") as group:
        tables = target_tables(spec, manifest, run.data.log)
        found = dry_run(config, tables, manifest, run.sharding.optimizer.kind, dense, group)
        _print(found, group)
    return found


def warm_start_of(run: Run, where: str) -> WarmStart:
    """The run's warm start. Raises ConfigError where it has none."""
    if run.warm_start is None:
        raise ConfigError(f"{where} has no warm start; set Run.warm_start=WarmStart(source=...) in the recipe")
    return run.warm_start


def _print(found: WarmStartReport, group: Group) -> None:
    if group.is_main:
        from rich.console import Console

        found.print(Console())
