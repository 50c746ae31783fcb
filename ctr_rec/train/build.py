"""From a run to its parts on this rank: log, spec, ranker on all ranks, readers. Shared by training and evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ctr_rec.batch.config import DataConfig
from ctr_rec.batch.reader import Reader
from ctr_rec.batch.row_numbers import VocabularyNumbers
from ctr_rec.batch.source import check_spec
from ctr_rec.errors import ConfigError, SchemaError
from ctr_rec.evaluate.stream import first_times
from ctr_rec.layers.layout import Axes
from ctr_rec.models.ranker import BESIDE, Branch, Ranker
from ctr_rec.schema.manifest import SPLITS, LogManifest, load_manifest
from ctr_rec.schema.table import SparseSpec, sparse_spec
from ctr_rec.sharding.group import Group
from ctr_rec.sharding.initial import RowNumbers
from ctr_rec.sharding.parallelize import Parallel, parallelize
from ctr_rec.train.run import Run
from ctr_rec.train.stage import Stage
from ctr_rec.train.strategies import stages


@dataclass(frozen=True)
class Built:
    """The parts of a run.

    item_is_new: bool per item number, first seen after the training range. numbers: what the tables' initial values
    depend on besides the seed, for whoever writes them again (`write_initial_values`). grown: the log grew from the
    one that `spec` was made for, so it names ids that the model has no row for.
    """

    run: Run
    manifest: LogManifest
    spec: SparseSpec
    group: Group
    parallel: Parallel
    item_is_new: np.ndarray
    numbers: RowNumbers
    grown: bool = False

    @property
    def ranker(self) -> Ranker:
        """The model without its wrappers."""
        ranker = self.parallel.module
        assert isinstance(ranker, Ranker)
        return ranker

    @property
    def axes(self) -> dict[str, Axes]:
        """What the axes of the model's dense parameters are made of; see `Ranker.axes`."""
        return self.ranker.axes()

    def drop_beside(self) -> None:
        """Removes the second network from the live model; what it wraps is wrapped anew. A collective."""
        ranker = self.parallel.module
        assert isinstance(ranker, Ranker)
        ranker.beside = None
        self.parallel.forget(BESIDE)

    def reader(self, split: str, seed: int, branch: Branch = Branch.SEQUENCE) -> Reader:
        """A reader of one split, of what one branch alone reads; only training is shuffled."""
        if split != "train":
            return self.scored(split, branch)
        return self._reader(self.run.data_of(branch), split, seed)

    def scored(self, split: str, branch: Branch = Branch.SEQUENCE) -> Reader:
        """A reader of any split in the order of the files, to score it."""
        return self._reader(self.run.data_of(branch).model_copy(update={"shuffle": False}), split, 0)

    def _reader(self, data: DataConfig, split: str, seed: int) -> Reader:
        return Reader(data, self.spec, split, seed, self.group.index, self.group.size, self.grown)


def build(run: Run, group: Group, spec: SparseSpec | None = None, grown: bool = False) -> Built:
    """Opens the log and places the model. The start is a function of the seed alone, whatever the ranks and the plan.

    spec: what the model was trained to read; None takes what the log has. grown: the log may have more rows than it.

    Raises:
        ConfigError: a label or a setting that the log does not know, or a placement that the device cannot do.
        SchemaError: the log has not what `spec` names. DataError: the log cannot be read.
    """
    manifest = load_manifest(run.data.log)
    labels = manifest.data_schema.labels
    if run.data.label not in labels:
        raise ConfigError(f"data.label is {run.data.label!r}, but the log {run.data.log} has {', '.join(labels)}")
    counts = dict(zip(SPLITS, manifest.impressions, strict=True))
    if counts["train"] == 0:
        raise ConfigError(f"the log {run.data.log} has no impression in its training range; prepare it with other ends")
    check_context(run, manifest.context, run.data.log)
    if run.sharding.optimizer.gradient == "mean" and group.size > 1:
        raise ConfigError(
            f"sharding.optimizer.gradient=mean counts the occurrences of a row on one rank and there are {group.size}; "
            "train on one, or set it to sum"
        )
    if spec is None:
        spec = sparse_spec(manifest, run.embedding)
    else:
        check_spec(manifest, spec, grown)
        _check_unit(manifest, spec)
    torch.manual_seed(run.train.seed)
    ranker = ranker_of(run, spec)
    numbers = VocabularyNumbers(run.data.log, manifest)
    sharding = run.sharding
    if run.beside is not None and any(_of_one_branch(stage) for stage in stages(run)):
        # DDP must not wait for gradients of the other branch.
        sharding = sharding.model_copy(update={"unused_parameters": True})
    parallel = parallelize(ranker, spec.tables, sharding, group, run.train.seed, numbers)
    new = first_times(run.data.log) > manifest.split.train_end
    return Built(run, manifest, spec, group, parallel, new, numbers, grown)


def check_context(run: Run, context: int | None, log: str | Path) -> None:
    """Raises ConfigError where a log was cut with less context than the tower looks back."""
    reach = run.tower.reach
    if context is not None and context < reach:
        raise ConfigError(
            f"tower {type(run.tower).__name__} reaches {reach} events back (layers x window), but {log} was cut with "
            f"{context} events of context: it would see another history than in the whole log; prepare the periods "
            f"with --context {reach} or more, or lower the tower's window or layers"
        )


def ranker_of(run: Run, spec: SparseSpec) -> Ranker:
    """The run's model, its tables on "meta"."""
    mean = run.sharding.optimizer.gradient == "mean"
    return Ranker(spec, run.tower, tuple(run.data.channels), beside=run.beside, mean_gradients=mean)


def _of_one_branch(stage: Stage) -> bool:
    """Whether a pass leaves one of two branches out."""
    return not stage.drops_beside and any(one.loss.branch is not Branch.BOTH for one in stage.passes)


def _check_unit(manifest: LogManifest, spec: SparseSpec) -> None:
    ticks, schema = spec.ticks_per_second, manifest.data_schema
    if schema.ticks_per_second != ticks:
        raise SchemaError(
            f"the model was trained on times with {ticks} ticks per second, the log {schema.name!r} has times in "
            f"{schema.time_unit!r}; prepare it in the model's unit"
        )
