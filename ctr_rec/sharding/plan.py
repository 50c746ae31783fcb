"""Where each table lives: TorchRec's planner under our constraints, checked, printable, and saved with the run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from pydantic import Field
from rich.table import Table as RichTable
from torch import nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import PlannerError, PlannerErrorType
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ShardingPlan

from ctr_rec.config import Config
from ctr_rec.errors import ConfigError
from ctr_rec.schema.table import Table
from ctr_rec.sharding.group import Group
from ctr_rec.sharding.tables import TableOptimizer, collections_of

GIB = 1 << 30


class ShardingConfig(Config):
    """How tables are placed and trained, and how the dense part is wrapped.

    memory_per_rank_gib: for the tables of one rank; None asks the device. reserve: share of it left for everything
    else. batch_size: impressions per rank that the planner's estimate of the traffic assumes. unused_parameters: lets
    DDP pass over dense parameters that some batch does not use, for a walk over the graph each step.
    """

    optimizer: TableOptimizer = TableOptimizer()
    memory_per_rank_gib: float | None = Field(default=None, gt=0)
    reserve: float = Field(default=0.15, ge=0, lt=1)
    batch_size: int = Field(default=2048, ge=1)
    unused_parameters: bool = False


class Shard(Config):
    """A piece of a table on a rank; offset and size are (row, column)."""

    rank: int
    offset: tuple[int, int]
    size: tuple[int, int]


class PlacedTable(Config):
    """path: of the collection in the model. kernel: TorchRec's name (fused, dense, ...)."""

    path: str
    table: str
    sharding: str
    kernel: str
    shards: tuple[Shard, ...]


class Placement(Config):
    """The plan as plain data: what is printed, saved with the run and kept in checkpoints."""

    world_size: int
    device: str
    tables: tuple[PlacedTable, ...]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.model_dump(mode="json"), indent=1) + "\n")

    def rich(self) -> RichTable:
        """The plan for people: a row per table."""
        out = RichTable(title=f"Placement of tables on {self.world_size} rank(s), {self.device}")
        for column in ("table", "rows", "width", "MiB", "sharding", "ranks"):
            out.add_column(column, justify="right" if column in ("rows", "width", "MiB") else "left")
        for t in self.tables:
            rows = max(s.offset[0] + s.size[0] for s in t.shards)
            width = max(s.offset[1] + s.size[1] for s in t.shards)
            ranks = ", ".join(str(r) for r in sorted({s.rank for s in t.shards}))
            out.add_row(t.table, f"{rows:,}", str(width), f"{rows * width * 4 / 2**20:,.1f}", t.sharding, ranks)
        return out


def sharders(device: torch.device) -> list[Any]:
    """One sharder per kind of collection. Batches hold distinct rows already, so de-duplication stays off."""
    del device
    return [EmbeddingBagCollectionSharder(), EmbeddingCollectionSharder(use_index_dedup=False)]


def allowed_sharding(table: Table, optimizer: TableOptimizer, device: torch.device) -> list[str]:
    """Sharding types the planner may choose for a table.

    Left to itself it may not take data_parallel (such a table has no fused optimizer) nor column_wise (under row-wise
    optimizers a row would have one state per column shard, which no other plan can load).

    Raises:
        ConfigError: the table asks for what its device, collection or optimizer cannot do.
    """
    row_wise_bags = device.type == "cuda"
    default = ["table_wise", "row_wise"] if not table.bags or row_wise_bags else ["table_wise"]
    if table.sharding is None:
        return default
    where = f"embedding.tables.{table.name}.sharding={table.sharding}"
    if table.sharding == "row_wise" and table.bags and not row_wise_bags:
        raise ConfigError(
            f"{where}: TorchRec cannot shard bags of user features by row on the CPU; use table_wise, or data_parallel"
        )
    if table.sharding == "data_parallel" and not table.bags:
        raise ConfigError(
            f"{where}: tables of item and event features cannot be data-parallel; use row_wise or table_wise"
        )
    if table.sharding == "column_wise" and optimizer.is_row_wise:
        raise ConfigError(
            f"{where}: {optimizer.kind.value} keeps one state per row, which column shards would multiply so that the "
            "checkpoint fits no other plan; use row_wise or table_wise, or sharding.optimizer.kind=adagrad or sgd"
        )
    return [table.sharding]


def table_bytes(tables: Sequence[Table], optimizer: TableOptimizer) -> dict[str, int]:
    """Bytes of each table with its optimizer state, float32."""
    return {t.name: 4 * t.rows * t.dim + optimizer.state_bytes(t) for t in tables}


def memory_per_rank(device: torch.device, local_size: int) -> int:
    """Bytes that one rank may take: free device memory, or its share of this host's available memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(psutil.virtual_memory().available, _memory_limit()) // local_size


def memory_left(local_size: int) -> int:
    """Bytes of host memory that one rank may still take, beside what it holds already."""
    mine = psutil.Process().memory_info().rss
    return max(0, min(psutil.virtual_memory().available // local_size, _memory_limit() // local_size - mine))


def _memory_limit() -> int:
    """What a container may take (control groups, version 2 then 1); psutil sees the whole host."""
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = Path(name)
        if path.is_file() and (text := path.read_text().strip()).isdecimal():
            return int(text)
    return 1 << 62


def check_memory(tables: Sequence[Table], config: ShardingConfig, world_size: int, per_rank: int) -> None:
    """Raises ConfigError when tables and their optimizer state cannot fit on all ranks together."""
    need = table_bytes(tables, config.optimizer)
    room = int(per_rank * (1 - config.reserve))
    total = sum(need.values())
    unsplit = [t for t in tables if t.sharding in ("table_wise", "data_parallel") and need[t.name] > room]
    if total <= room * world_size and not unsplit:
        return
    largest = sorted(need, key=lambda name: need[name], reverse=True)[:5]
    shown = ", ".join(f"{name} {need[name] / GIB:.2f} GiB" for name in largest)
    why = f"{unsplit[0].name} may not be split and " if unsplit and total <= room * world_size else ""
    raise ConfigError(
        f"tables do not fit: {why}they need {total / GIB:.2f} GiB with {config.optimizer.kind.value} state "
        f"({shown}{', ...' if len(need) > 5 else ''}), and {world_size} rank(s) have {room / GIB:.2f} GiB each after "
        f"the reserve of {config.reserve:.0%}; use more ranks, a smaller embedding.dim, a higher minimum count in the "
        "log, or set sharding.memory_per_rank_gib if the estimate is wrong"
    )


def make_plan(model: nn.Module, tables: Sequence[Table], config: ShardingConfig, group: Group) -> ShardingPlan:
    """Rank 0 plans, the others receive the plan; an error is raised on all of them.

    Raises:
        ConfigError: a table's constraint cannot be kept, or tables do not fit.
    """
    per_rank = config.memory_per_rank_gib * GIB if config.memory_per_rank_gib else None
    if per_rank is None:
        per_rank = min(group.all_gather_object(memory_per_rank(group.device, group.local_size)))
    constraints = {
        t.name: ParameterConstraints(
            sharding_types=allowed_sharding(t, config.optimizer, group.device),
            compute_kernels=[_kernel(t)],
        )
        for t in tables
    }
    check_memory(tables, config, group.size, int(per_rank))
    outcome: Any = None
    if group.is_main:
        outcome = _plan(model, tables, config, group, constraints, int(per_rank))
    outcome = group.broadcast_object(outcome)
    if isinstance(outcome, str):
        raise ConfigError(outcome)
    return outcome


def _kernel(table: Table) -> str:
    kernel = EmbeddingComputeKernel.DENSE if table.sharding == "data_parallel" else EmbeddingComputeKernel.FUSED
    return kernel.value


def _plan(
    model: nn.Module,
    tables: Sequence[Table],
    config: ShardingConfig,
    group: Group,
    constraints: dict[str, ParameterConstraints],
    per_rank: int,
) -> ShardingPlan | str:
    """The plan, or the sentence that says why there is none."""
    on_cpu = group.device.type == "cpu"
    room = int(per_rank * (1 - config.reserve)) if on_cpu else per_rank
    planner = EmbeddingShardingPlanner(
        topology=_topology(group, room),
        batch_size=config.batch_size,
        # On the CPU the reserve is taken above: TorchRec's reservation knows device memory only.
        storage_reservation=FixedPercentageStorageReservation(0.0 if on_cpu else config.reserve),
        constraints=constraints,
        stats=[],
        debug=False,
    )
    try:
        return planner.plan(model, sharders(group.device))
    except PlannerError as error:
        # Our constraints leave every table a way, so a plan fails on them only where memory closes it.
        if error.error_type not in (PlannerErrorType.INSUFFICIENT_STORAGE, PlannerErrorType.STRICT_CONSTRAINTS):
            return f"no placement of the tables keeps to their constraints: {error}"
        need = table_bytes(tables, config.optimizer)
        largest = max(need, key=lambda name: need[name])
        return (
            f"tables do not fit beside the batches: largest is {largest} with {need[largest] / GIB:.2f} GiB, all "
            f"{sum(need.values()) / GIB:.2f} GiB, and {group.size} rank(s) have {room / GIB:.2f} GiB each; use more "
            "ranks, let large tables be row_wise, or lower embedding.dim or sharding.batch_size"
        )


def _topology(group: Group, room: int) -> Topology:
    on_cpu = group.device.type == "cpu"
    try:
        from torchrec.distributed.planner.types import KernelConfig, TopologyFactory, TrainerConfig
    except ImportError:
        # TorchRec before 1.7 has no factory.
        return Topology(
            world_size=group.size,
            local_world_size=group.local_size,
            compute_device=group.device.type,
            hbm_cap=None if on_cpu else room,
            ddr_cap=room if on_cpu else None,
        )
    return TopologyFactory.create_topology(
        TrainerConfig(
            world_size=group.size,
            local_world_size=group.local_size,
            hbm_cap_bytes=None if on_cpu else room,
            ddr_cap_bytes=room if on_cpu else None,
        ),
        kernel_config=KernelConfig(compute_device=group.device.type),
    )


def placement_of(plan: ShardingPlan, model: nn.Module, group: Group) -> Placement:
    """The plan as plain data. `model` is not sharded yet: sizes of unsharded tables are read from it."""
    sizes = {
        (path, name.split(".")[-2]): tuple(parameter.shape)
        for path, collection in collections_of(model)
        for name, parameter in collection.named_parameters()
    }
    placed = []
    for path, module_plan in plan.plan.items():
        assert isinstance(module_plan, EmbeddingModuleShardingPlan)
        for table, sharding in module_plan.items():
            placed.append(
                PlacedTable(
                    path=path,
                    table=table,
                    sharding=sharding.sharding_type,
                    kernel=sharding.compute_kernel,
                    shards=_shards(sharding, sizes[path, table]),
                )
            )
    placed.sort(key=lambda t: t.table)
    return Placement(world_size=group.size, device=group.device.type, tables=tuple(placed))


def _shards(sharding: Any, size: tuple[int, ...]) -> tuple[Shard, ...]:
    if sharding.sharding_spec is None:
        return tuple(Shard(rank=r, offset=(0, 0), size=(size[0], size[1])) for r in sharding.ranks)
    return tuple(
        Shard(rank=s.placement.rank(), offset=tuple(s.shard_offsets), size=tuple(s.shard_sizes))
        for s in sharding.sharding_spec.shards
    )
