"""From a model written for one device to the same model on all ranks: tables placed and fused, the dense part copied.

The order is fixed: optimizers are attached to the tables on `meta`, the plan is made, TorchRec shards, initial values
are written shard by shard, and DDP wraps what is left, copying rank 0's dense values to all.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchrec.distributed.model_parallel import (
    DefaultDataParallelWrapper,
    DistributedModelParallel,
    get_unwrapped_module,
)
from torchrec.distributed.types import ShardingEnv, ShardingPlan
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer

from ctr_rec.schema.table import Table
from ctr_rec.sharding.group import Group
from ctr_rec.sharding.initial import RowNumbers, by_row
from ctr_rec.sharding.plan import Placement, ShardingConfig, make_plan, placement_of, sharders
from ctr_rec.sharding.replicated import ReplicatedOptimizer
from ctr_rec.sharding.tables import (
    apply_table_optimizers,
    assert_every_table_has_one_optimizer,
    check_optimizer,
    is_table,
    table_of,
    write_initial_values,
)


@dataclass
class Parallel:
    """A model on its ranks.

    model: call it like the model it wraps. fused_optimizer: of the tables, keyed by parameter name; call `zero_grad`
    before and `step` after each backward pass. dense_parameters: what the trainer's optimizer gets, by name. plan: as
    plain data.
    """

    model: DistributedModelParallel
    fused_optimizer: KeyedOptimizer
    dense_parameters: dict[str, nn.Parameter]
    plan: Placement
    group: Group

    def __post_init__(self) -> None:
        self._table_lrs = [group["lr"] for group in self.fused_optimizer.param_groups]

    @property
    def module(self) -> nn.Module:
        """The model without its wrappers."""
        return get_unwrapped_module(self.model)

    def set_table_lr(self, factor: float) -> None:
        """Sets every table's learning rate to factor x its configured one. Acts from the next backward pass on."""
        for settings, lr in zip(self.fused_optimizer.param_groups, self._table_lrs, strict=True):
            settings["lr"] = lr * factor  # type: ignore[index]
        self.model.fused_optimizer.zero_grad()

    def forget(self, prefix: str) -> None:
        """Dense parameters whose name begins so are no longer in the model: the rest is wrapped anew."""
        for name in [name for name in self.dense_parameters if name.startswith(prefix)]:
            del self.dense_parameters[name]
        self.rebuild_dense()

    def rebuild_dense(self) -> None:
        """Wraps the dense part anew; call it after changing which dense parameters are trained."""
        wrapped = self.model._dmp_wrapped_module
        if isinstance(wrapped, DistributedDataParallel):
            self.model._dmp_wrapped_module = wrapped.module
        self.model._ddp_wrapped = False
        with _deprecation_of_torchrecs_own():
            self.model.init_data_parallel()


def parallelize(
    model: nn.Module,
    tables: Sequence[Table],
    config: ShardingConfig,
    group: Group,
    seed: int = 0,
    numbers: RowNumbers = by_row,
) -> Parallel:
    """Places the model's embedding collections, built on `meta`, and wraps the rest in DDP. Changes `model`.

    Args:
        model: holds EmbeddingCollection and EmbeddingBagCollection modules anywhere; every table is one of `tables`.
        seed: of the tables' initial values, which do not depend on the plan or the number of ranks. The dense part
            keeps rank 0's values.
        numbers: what the initial value of a row depends on besides; a log's vocabularies, or the row itself.

    Raises:
        ConfigError: an optimizer or a placement that the device does not have, or tables that do not fit.
    """
    # TorchRec asks torch.fx a question that torch.fx warns about, once per run; nothing a reader could act on.
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    check_optimizer(config.optimizer, tables, group.device)
    apply_table_optimizers(model, config.optimizer, tables)
    plan = make_plan(model, tables, config, group)
    placement = placement_of(plan, model, group)
    with _deprecation_of_torchrecs_own():
        wrapped = _shard(model, plan, config, group)
        write_initial_values(wrapped, tables, seed, numbers)
        wrapped.init_data_parallel()
    fused = _table_optimizer(wrapped, tables, config)
    assert_every_table_has_one_optimizer(tables, fused, group)
    dense = {n: p for n, p in get_unwrapped_module(wrapped).named_parameters() if not is_table(n)}
    return Parallel(model=wrapped, fused_optimizer=fused, dense_parameters=dense, plan=placement, group=group)


@contextmanager
def _deprecation_of_torchrecs_own() -> Iterator[None]:
    """TorchRec passes DDP an argument that DDP wants renamed; nothing a reader of the log could act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
        yield


def _shard(model: nn.Module, plan: ShardingPlan, config: ShardingConfig, group: Group) -> DistributedModelParallel:
    return DistributedModelParallel(
        module=model,
        env=ShardingEnv.from_process_group(group.process_group),
        device=group.device,
        plan=plan,
        sharders=sharders(group.device),
        init_data_parallel=False,
        data_parallel_wrapper=DefaultDataParallelWrapper(
            static_graph=False, find_unused_parameters=config.unused_parameters
        ),
    )


def _table_optimizer(
    model: DistributedModelParallel, tables: Sequence[Table], config: ShardingConfig
) -> KeyedOptimizer:
    """TorchRec's fused optimizers, and one of our own for tables that every rank holds whole."""
    lrs = {t.name: t.learning_rate or config.optimizer.lr for t in tables if t.sharding == "data_parallel"}
    replicated = {
        name: parameter
        for name, parameter in get_unwrapped_module(model).named_parameters()
        if is_table(name) and table_of(name) in lrs
    }
    if not replicated:
        return model.fused_optimizer
    own = ReplicatedOptimizer(replicated, {name: lrs[table_of(name)] for name in replicated}, config.optimizer)
    return CombinedOptimizer([model.fused_optimizer, own])
