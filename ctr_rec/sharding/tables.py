"""What a table needs besides its rows: exactly one optimizer, checked settings, and initial values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed.optim.apply_optimizer_in_backward import _apply_optimizer_in_backward
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.optim.keyed import KeyedOptimizer
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from ctr_rec.config import Config
from ctr_rec.errors import ConfigError
from ctr_rec.schema.table import Table
from ctr_rec.sharding.group import Group
from ctr_rec.sharding.initial import RowNumbers, normal_rows

# Rows written at once: bounds the memory that initialisation needs beside the table itself.
ROWS_PER_WRITE = 1 << 16


class OptimizerKind(str, Enum):
    SGD = "sgd"
    ADAGRAD = "adagrad"
    ROWWISE_ADAGRAD = "rowwise_adagrad"
    ADAM = "adam"


class TableOptimizer(Config):
    """The optimizer of every table, applied in the backward pass to the rows that were looked up.

    lr: default learning rate; a table's own is `embedding.tables.<table>.learning_rate`. eps: added to the root.
    weight_decay: L2, on the rows looked up. betas: of Adam. gradient: of a row that stands at several events and
    impressions of a batch, the sum over them, which is the gradient of the loss, or their mean (an ablation, on one
    rank: correlated occurrences then weigh as one). Tables of user profiles keep the sum.
    """

    kind: OptimizerKind = OptimizerKind.ROWWISE_ADAGRAD
    lr: float = Field(default=0.05, gt=0)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    gradient: Literal["sum", "mean"] = "sum"

    @property
    def is_row_wise(self) -> bool:
        """Whether it keeps one number per row."""
        return self.kind is OptimizerKind.ROWWISE_ADAGRAD

    def state_bytes(self, table: Table) -> int:
        """Bytes of optimizer state of a float32 table."""
        per_row = {"sgd": 0, "adagrad": 4 * table.dim, "rowwise_adagrad": 4, "adam": 8 * table.dim}
        return table.rows * per_row[self.kind.value]


_CLASSES: dict[OptimizerKind, type[torch.optim.Optimizer]] = {
    OptimizerKind.SGD: torch.optim.SGD,
    OptimizerKind.ADAGRAD: torch.optim.Adagrad,
    OptimizerKind.ROWWISE_ADAGRAD: RowWiseAdagrad,
    OptimizerKind.ADAM: torch.optim.Adam,
}


def check_optimizer(optimizer: TableOptimizer, tables: Sequence[Table], device: torch.device) -> None:
    """Raises ConfigError, naming the tables, for settings that the device's kernels do not have."""
    names = ", ".join(t.name for t in tables)
    if optimizer.kind is OptimizerKind.ADAM and device.type == "cpu":
        raise ConfigError(
            f"sharding.optimizer.kind=adam for the tables {names}: fbgemm has Adam for tables on CUDA only and this "
            "run is on the CPU; use rowwise_adagrad, adagrad or sgd"
        )
    if optimizer.weight_decay and optimizer.kind in (OptimizerKind.SGD, OptimizerKind.ADAGRAD):
        raise ConfigError(
            f"sharding.optimizer.weight_decay={optimizer.weight_decay} for the tables {names}: fbgemm's "
            f"{optimizer.kind.value} ignores it; use rowwise_adagrad (or adam on CUDA), or set it to 0"
        )
    replicated = [t.name for t in tables if t.sharding == "data_parallel"]
    if replicated and (optimizer.kind is OptimizerKind.ADAM or optimizer.weight_decay):
        raise ConfigError(
            f"embedding.tables.{replicated[0]}.sharding=data_parallel with sharding.optimizer.kind="
            f"{optimizer.kind.value}, weight_decay={optimizer.weight_decay}: such a table would decay or move in rows "
            "that no batch looked up; use table_wise, or rowwise_adagrad, adagrad or sgd without weight decay"
        )


def optimizer_settings(optimizer: TableOptimizer, table: Table) -> dict[str, Any]:
    """Keyword arguments of the table's optimizer, in the names of torch.optim."""
    settings: dict[str, Any] = {"lr": table.learning_rate or optimizer.lr}
    if optimizer.kind is not OptimizerKind.SGD:
        settings |= {"eps": optimizer.eps, "weight_decay": optimizer.weight_decay}
    if optimizer.kind is OptimizerKind.ADAM:
        settings["betas"] = optimizer.betas
    return settings


def collections_of(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The unsharded embedding collections below a module, with their paths."""
    for path, child in module.named_modules():
        if isinstance(child, (EmbeddingBagCollection, EmbeddingCollection)):
            yield path, child


def apply_table_optimizers(module: nn.Module, optimizer: TableOptimizer, tables: Sequence[Table]) -> None:
    """Marks table parameters with their optimizer, which TorchRec fuses into the backward pass when it shards.

    Replicated tables are left out: theirs is a `ReplicatedOptimizer`.
    """
    by_name = {t.name: t for t in tables}
    for _, collection in collections_of(module):
        for path, parameter in collection.named_parameters():
            table = by_name[table_of(path)]
            if table.sharding == "data_parallel":
                continue
            _apply_optimizer_in_backward(_CLASSES[optimizer.kind], [parameter], optimizer_settings(optimizer, table))


def table_of(parameter: str) -> str:
    """The table's name in TorchRec's parameter name, `...embeddings.<table>.weight`."""
    return parameter.removesuffix(".weight").rsplit(".", 1)[-1]


def is_table(parameter: str) -> bool:
    """Whether a parameter name is that of a table, as TorchRec names them."""
    parts = parameter.split(".")
    return len(parts) >= 3 and parts[-3] in ("embeddings", "embedding_bags") and parts[-1] == "weight"


@dataclass(frozen=True)
class LocalShard:
    """A piece of a table on this rank: rows offset[0] onwards, columns offset[1] onwards of the whole table."""

    table: str
    offset: tuple[int, int]
    weight: Tensor


def local_shards(model: nn.Module) -> Iterator[LocalShard]:
    """Every piece of every table that this rank holds, weights as views of the live parameters."""
    for path, value in model.state_dict().items():
        if not is_table(path):
            continue
        if isinstance(value, ShardedTensor):
            for shard in value.local_shards():
                row, column = shard.metadata.shard_offsets
                yield LocalShard(table_of(path), (row, column), shard.tensor.detach())
        else:
            yield LocalShard(table_of(path), (0, 0), value.detach())


@torch.no_grad()
def write_initial_values(model: nn.Module, tables: Sequence[Table], seed: int | str, numbers: RowNumbers) -> None:
    """Fills this rank's pieces of the given tables, in slices; see `ctr_rec.sharding.initial`. Optimizer state stays.

    numbers: asked for the rank's own rows only, `ROWS_PER_WRITE` at a time and in order.
    """
    by_name = {t.name: t for t in tables}
    for shard in local_shards(model):
        if shard.table not in by_name:
            continue
        table = by_name[shard.table]
        first_row, first_column = shard.offset
        columns = slice(first_column, first_column + shard.weight.shape[1])
        for start in range(0, shard.weight.shape[0], ROWS_PER_WRITE):
            piece = shard.weight[start : start + ROWS_PER_WRITE]
            first = first_row + start
            of_rows = numbers(table.name, first, first + piece.shape[0])
            assert len(of_rows) == len(piece), f"{len(of_rows)} numbers for {len(piece)} rows of table {table.name}"
            values = normal_rows(seed, table.name, of_rows, table.dim, table.init_std)[:, columns]
            piece.copy_(torch.from_numpy(np.ascontiguousarray(values)))


def assert_every_table_has_one_optimizer(tables: Sequence[Table], optimizer: KeyedOptimizer, group: Group) -> None:
    """A table without an optimizer never learns, and nothing else would say so. All ranks call it.

    A rank owns up only to tables of which it holds a piece, so each table must be found once wherever it is found.
    """
    mine = Counter(table_of(path) for path in optimizer.params)
    everywhere = group.all_gather_object(dict(mine))
    found = {t.name: max(counts.get(t.name, 0) for counts in everywhere) for t in tables}
    wrong = {name: count for name, count in found.items() if count != 1}
    assert not wrong, f"number of optimizers by table, expected one each: {wrong}"
