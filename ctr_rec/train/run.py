"""A whole run as one config. A recipe is a function that returns it; `--set` changes single fields of it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SerializeAsAny, model_validator

from ctr_rec.batch.config import DataConfig, Packed, Pointwise
from ctr_rec.checkpoint.warm_start.config import WarmStart
from ctr_rec.config import Config
from ctr_rec.errors import ConfigError
from ctr_rec.models.ranker import Branch
from ctr_rec.models.tower import Filling, TowerConfig
from ctr_rec.schema.table import EmbeddingSettings
from ctr_rec.sharding.plan import ShardingConfig
from ctr_rec.train.optimizers import DenseOptimizer, Schedule
from ctr_rec.train.settings import DualLoss, SequenceThenSparse, SparseReset


class Validation(Config):
    """When the validation range is scored, what is watched, and when training stops early.

    every: steps between validations; None means at the end of each epoch.
    patience: stop after this many validations without a better `metric`; None never stops early.
    """

    metric: Literal["auc", "gauc", "logloss", "ne"] = "auc"
    every: int | None = Field(default=None, ge=1)
    patience: int | None = Field(default=None, ge=1)


class Checkpointing(Config):
    """When checkpoints are written, where, and how many stay.

    every: steps between checkpoints besides those at validations and at the end. keep: of the last ones; the best one
    stays besides. asynchronous: training goes on while a checkpoint is written. Each rank then holds its share of the
    tables and optimizer states a second time, in host memory; where that does not fit, it warns and saves in between.
    folder: where checkpoints lie, None for inside the run's folder; a path, or one with a scheme that fsspec knows
    (s3://bucket/runs/din). It belongs to one run alone.
    """

    every: int | None = Field(default=None, ge=1)
    keep: int = Field(default=2, ge=1)
    asynchronous: bool = True
    folder: str | None = Field(default=None, min_length=1)


class TrainConfig(Config):
    """strategy: a function of train/strategies.py. record_impressions: keep every impression id that was trained on.

    threads: of torch inside each process; None leaves torch's choice (torchrun sets one). epochs, max_steps: of each
    log that the run is trained on, where it goes on with --grow; so does the schedule.
    """

    seed: int = Field(default=1, ge=0, lt=2**53)
    strategy: Literal["joint", "multi_epoch_sparse_reset", "sequence_then_sparse", "dual_loss_warm_start"] = "joint"
    sparse_reset: SparseReset = SparseReset()
    sequence_then_sparse: SequenceThenSparse = SequenceThenSparse()
    dual_loss: DualLoss = DualLoss()
    epochs: int = Field(default=1, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    log_every: int = Field(default=50, ge=1)
    window: int = Field(default=100_000, ge=1, description="impressions in the window metrics of the log line")
    threads: int | None = Field(default=None, ge=1)
    record_impressions: bool = False


class Run(Config):
    """name appears in logs and reports; every other field is a part of the run.

    beside: a second network on the same tables, with a head of its own, for strategies that train with one: "the
    original network", DIN or an MLP. It reads data.channels from pointwise and from packed batches; in those of a
    packed batch nothing lies beyond `batches.context`. What is evaluated, exported and served is the tower.
    """

    name: str
    data: DataConfig
    tower: SerializeAsAny[TowerConfig]
    beside: SerializeAsAny[TowerConfig] | None = None
    embedding: EmbeddingSettings = EmbeddingSettings()
    dense: DenseOptimizer = DenseOptimizer()
    schedule: Schedule = Schedule()
    sharding: ShardingConfig = ShardingConfig()
    train: TrainConfig = TrainConfig()
    validation: Validation = Validation()
    checkpoint: Checkpointing = Checkpointing()
    warm_start: WarmStart | None = None

    @model_validator(mode="after")
    def _fits(self) -> Run:
        """A tower that reads whole users takes Alone for users of one impression.

        Only packed batches need the rule of the context: what an impression sees of others' events there ends where
        batches are cut. Alone, it is given the same events in every batch, `history` of them, and sees the newest
        min(history, window) in a layer, min(history, reach) through all.
        """
        packed = not isinstance(self.data.batches, Pointwise)
        if packed != (self.tower.filling is Filling.PACKED):
            raise ConfigError(
                f"tower {type(self.tower).__name__} reads {self.tower.filling.value} batches, but data.batches is "
                f"{type(self.data.batches).__name__}; set data.batches to "
                f"{'Packed(...) or Alone(...)' if self.tower.filling is Filling.PACKED else 'Pointwise(...)'}"
            )
        if self.data.channels and not self.tower.reads_channels and self.beside is None:
            raise ConfigError(
                f"tower {type(self.tower).__name__} reads a user's whole stream, so data.channels "
                f"({', '.join(self.data.channels)}) would have no effect; remove them"
            )
        if isinstance(self.data.batches, Packed) and self.tower.reach > self.data.batches.reach:
            raise ConfigError(
                f"tower {type(self.tower).__name__} reaches {self.tower.reach} events back, but data.batches.context "
                f"brings {self.data.batches.reach}: what an impression sees would depend on where batches are cut; set "
                f"data.batches.context to {self.tower.reach} or more, or lower the tower's layers or windows"
            )
        if self.beside is not None and self.beside.filling is not Filling.POINTWISE:
            raise ConfigError(
                f"beside is {type(self.beside).__name__}, which reads {self.beside.filling.value} batches; the second "
                "network reads channels of pointwise batches: take DINConfig, MLPConfig or DCNv2Config"
            )
        return self

    def data_of(self, branch: Branch) -> DataConfig:
        """What one branch alone reads: the tower its own batches, without channels that only the other one reads."""
        if branch is Branch.BESIDE:
            pointwise = isinstance(self.data.batches, Pointwise)
            return self.data if pointwise else self.data.model_copy(update={"batches": Pointwise()})
        return self.data if self.tower.reads_channels else self.data.model_copy(update={"channels": {}})
