"""A run's model with the weights of one of its checkpoints, as scoring, the scorer and `inspect attention` need it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ctr_rec.checkpoint.history import find
from ctr_rec.checkpoint.manifest import Manifest, check_compatible, read_manifest
from ctr_rec.errors import CheckpointError
from ctr_rec.schema.manifest import load_manifest
from ctr_rec.schema.table import SparseSpec
from ctr_rec.sharding.group import Group
from ctr_rec.train.build import Built, build
from ctr_rec.train.checkpoints import load_weights
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.run import Run


def open_run(
    run_dir: Path, checkpoint: str, log: Path | None, group: Group, change: Callable[[Run], Run] = lambda run: run
) -> tuple[Built, Manifest]:
    """Rebuilds the run from its folder on this rank of an open group. A collective.

    checkpoint: `best`, `last` or `step-N`. log: instead of the run's own, which must not have changed since;
    it may have grown from it.
    change: what is done to the run's config before its model is built.

    Raises:
        ConfigError: no run folder. CheckpointError: no such checkpoint, or it is damaged or was trained on other data.
        SchemaError: the log has not the features or tables that the model reads. DataError: the log cannot be read.
    """
    folder = RunFolder(run_dir)
    run = folder.load_run()
    if log is not None:
        run = run.model_copy(update={"data": run.data.model_copy(update={"log": str(log)})})
    run = change(run)
    if run.train.threads is not None:
        torch.set_num_threads(run.train.threads)
    stored = read_manifest(find(run_dir, checkpoint))
    grown = stored.data_fingerprint in load_manifest(run.data.log).grown_from
    built = build(run, group, _inputs_of(folder, stored), grown)
    load_weights(folder, built, checkpoint)
    if log is None:
        try:
            check_compatible(stored, built.manifest.fingerprint, built.spec)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; or say --log {built.run.data.log} to score it all the same") from error
    return built, stored


def _inputs_of(folder: RunFolder, stored: Manifest) -> SparseSpec | None:
    """What the checkpoint's model reads: the run's inputs, with tables as long as they were when it was saved."""
    spec = folder.load_inputs()
    if spec is None:
        return None
    tables = [t.model_copy(update={"rows": stored.tables.get(t.name, (t.rows,))[0]}) for t in spec.tables]
    return spec.model_copy(update={"tables": tuple(tables)})
