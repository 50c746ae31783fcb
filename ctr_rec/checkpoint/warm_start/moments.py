"""The state of the tables' optimizer: what of the source's fits ours, and where this rank holds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torchrec.optim.keyed import KeyedOptimizer

from ctr_rec.checkpoint.warm_start.config import TableWarmStart
from ctr_rec.checkpoint.warm_start.rows import RowReader
from ctr_rec.checkpoint.warm_start.source import SourceTable
from ctr_rec.checkpoint.warm_start.widths import Widening, pad
from ctr_rec.errors import ConfigError
from ctr_rec.sharding.tables import LocalShard, OptimizerKind, table_of

_SUMS = ("momentum1", "sum")


@dataclass(frozen=True)
class Carried:
    """words: for the report. reader: the state to carry, None where it starts anew. change: as `fill` wants it."""

    words: str
    reader: RowReader | None = None
    change: Callable[[Tensor], Tensor] = Tensor.float


def carried_state(
    name: str, source: SourceTable, kind: OptimizerKind, width: Widening, dim: int, settings: TableWarmStart
) -> Carried:
    """What becomes of the state. Raises ConfigError where it must be carried (optimizer_state=carry) and cannot."""
    if settings.optimizer_state == "reset":
        return Carried("reset, as asked")
    reader, why = _fitting(source, kind, width)
    if reader is None:
        if settings.optimizer_state == "carry":
            raise ConfigError(
                f"table {name}: optimizer_state=carry, but {why}; set warm_start.tables.{name}.optimizer_state to "
                "reset, or use the source's optimizer"
            )
        return Carried(f"reset: {why}")
    if reader.flat:
        return Carried("carried: row-wise Adagrad", reader)
    if reader.width == dim:
        return Carried("carried: Adagrad", reader)
    # Zeros are what an Adagrad that never moved a column has there.
    return Carried("carried: Adagrad, padded", reader, lambda block: pad(block, dim))


def _fitting(source: SourceTable, kind: OptimizerKind, width: Widening) -> tuple[RowReader | None, str]:
    states = source.states
    if kind is OptimizerKind.SGD:
        return None, "our optimizer sgd keeps no state"
    if kind is OptimizerKind.ADAM:
        return None, "adam's moments belong to a step count, which new rows do not share"
    if not states:
        return None, "the source has none"
    held = ", ".join(sorted(states))
    if any(key in states for key in ("momentum2", "exp_avg", "exp_avg_sq")):
        return None, f"the source's optimizer is another kind (it keeps {held}), ours is {kind.value}"
    reader = next(states[key] for key in _SUMS if key in states) if any(k in states for k in _SUMS) else None
    if reader is None:
        return None, f"the source keeps {held}, ours ({kind.value}) needs momentum1 or sum"
    if reader.flat != (kind is OptimizerKind.ROWWISE_ADAGRAD):
        theirs = "one number per row" if reader.flat else "one number per element"
        return None, f"the source keeps {theirs}, ours ({kind.value}) does not"
    if not reader.flat and not width.keeps_places:
        return None, f"vectors are {width.words}, and element-wise state cannot follow"
    if not reader.flat and reader.width != source.vectors.width:
        return None, f"the source's state has width {reader.width}, its vectors {source.vectors.width}"
    return reader, ""


def state_shards(optimizer: KeyedOptimizer, table: str) -> list[LocalShard]:
    """This rank's pieces of a table's momentum1, as views of the live state; none under sgd."""
    found = []
    for name, entry in optimizer.state_dict()["state"].items():
        if table_of(name) != table:
            continue
        for key, value in entry.items():
            if key.rsplit(".", 1)[-1] in _SUMS:
                found += _pieces(table, value)
    return found


def _pieces(table: str, value: Tensor | ShardedTensor) -> list[LocalShard]:
    if not isinstance(value, ShardedTensor):
        return [LocalShard(table, (0, 0), value.detach())]
    pieces = []
    for shard in value.local_shards():
        row, column, *_ = (*shard.metadata.shard_offsets, 0)
        pieces.append(LocalShard(table, (int(row), int(column)), shard.tensor.detach()))
    return pieces


def clear_state(shards: list[LocalShard]) -> None:
    """Zeros, as at a fresh start."""
    for shard in shards:
        with torch.no_grad():
            shard.weight.zero_()
