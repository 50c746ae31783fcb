"""The ranks of a job: the one place that reads RANK and WORLD_SIZE and that opens a process group.

Everybody else receives a `Group`. A lone process is a group of one, so that one rank runs the path that many run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore

from ctr_rec.errors import ConfigError

LAUNCH = "python -m torch.distributed.run --nproc-per-node N -m ctr_rec ..."


@dataclass(frozen=True)
class Place:
    """Where this process stands: rank, of how many, and the same within its host."""

    rank: int
    size: int
    local_rank: int
    local_size: int


@dataclass(frozen=True)
class Group:
    """The ranks of a job seen from one of them. Every method but the properties is a collective: all ranks call it."""

    index: int
    size: int
    local_index: int
    local_size: int
    device: torch.device
    backend: str
    process_group: dist.ProcessGroup

    @property
    def is_main(self) -> bool:
        """Whether this rank writes what is written once."""
        return self.index == 0

    def barrier(self) -> None:
        """Returns when every rank has called it."""
        if self.size == 1:
            return
        if self.backend == "nccl":
            dist.barrier(self.process_group, device_ids=[self.local_index])
        else:
            dist.barrier(self.process_group)

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, a new tensor of the same shape, dtype and device."""
        total = tensor.detach().to(self.device, copy=True)
        if self.size > 1:
            dist.all_reduce(total, op=dist.ReduceOp.SUM, group=self.process_group)
        return total.to(tensor.device)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on some rank."""
        return self.any_of(flag)[0]

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is set on some rank: several questions at the price of one."""
        return tuple(self.all_reduce_sum(torch.tensor([int(flag) for flag in flags])).bool().tolist())

    def all_gather_object(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order. For small Python values; `gather_arrays` is for rows."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.process_group)
        return values

    def broadcast_object(self, value: Any) -> Any:
        """Rank 0's value; what the other ranks pass is ignored."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.process_group, device=self.device)
        return box[0]

    def gather_arrays(self, array: np.ndarray) -> np.ndarray:
        """Every rank's rows, concatenated in rank order, on every rank. Ranks may hold different numbers of rows.

        Raises:
            ValueError: ranks disagree about dtype or width, or the dtype holds Python objects.
        """
        if array.dtype.hasobject:
            raise ValueError(f"expected an array of numbers, got dtype {array.dtype}")
        if self.size == 1:
            return array
        kinds = self.all_gather_object((array.shape[0], array.dtype.str, array.shape[1:]))
        if len({kind[1:] for kind in kinds}) > 1:
            raise ValueError(f"expected one dtype and width on all ranks, got {[kind[1:] for kind in kinds]}")
        rows = [kind[0] for kind in kinds]
        width = array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))
        mine = np.zeros(max(rows) * width, dtype=np.uint8)
        mine[: array.shape[0] * width] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        sent = torch.from_numpy(mine).to(self.device)
        received = [torch.zeros_like(sent) for _ in range(self.size)]
        dist.all_gather(received, sent, group=self.process_group)
        parts = [
            part.cpu().numpy()[: n * width].view(array.dtype).reshape(n, *array.shape[1:])
            for part, n in zip(received, rows, strict=True)
        ]
        return np.concatenate(parts)


def group_beside(group: Group) -> Group:
    """The same ranks in a gloo process group of their own, for a thread beside training. All ranks call it.

    Collectives of one group must come in one order on all ranks; two threads could not keep it.
    """
    beside = dist.new_group(backend="gloo", timeout=timedelta(minutes=30))
    assert isinstance(beside, dist.ProcessGroup)
    return replace(group, device=torch.device("cpu"), backend="gloo", process_group=beside)


def read_place(environment: Mapping[str, str], gpus: int | None = None) -> Place:
    """Reads what torchrun (or any launcher that follows it) sets; nothing set means one process.

    Args:
        environment: usually `os.environ`.
        gpus: CUDA devices of this host when training on CUDA, else None.

    Raises:
        ConfigError: some variables are set and others missing, a value is no number or out of range, or the host has
            fewer GPUs than processes.
    """
    needed = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    present = [name for name in needed if name in environment]
    if "RANK" not in present and "WORLD_SIZE" not in present:
        return Place(rank=0, size=1, local_rank=0, local_size=1)
    missing = [name for name in needed if name not in present]
    if missing:
        raise ConfigError(
            f"{', '.join(present)} set without {', '.join(missing)}: expected all of {', '.join(needed)} or none; "
            f"launch with `{LAUNCH}` or unset them"
        )
    size = _whole_number(environment, "WORLD_SIZE", low=1)
    rank = _whole_number(environment, "RANK", low=0)
    if rank >= size:
        raise ConfigError(f"RANK={rank} with WORLD_SIZE={size}: expected a rank below the world size; check `{LAUNCH}`")
    local_size = _whole_number(environment, "LOCAL_WORLD_SIZE", low=1) if "LOCAL_WORLD_SIZE" in environment else size
    local_rank = _whole_number(environment, "LOCAL_RANK", low=0) if "LOCAL_RANK" in environment else rank
    if local_size > size or local_rank >= local_size:
        raise ConfigError(
            f"LOCAL_RANK={local_rank}, LOCAL_WORLD_SIZE={local_size}, WORLD_SIZE={size}: expected "
            "LOCAL_RANK < LOCAL_WORLD_SIZE <= WORLD_SIZE; check the launcher's number of nodes and processes per node"
        )
    if gpus is not None and local_size > gpus:
        raise ConfigError(
            f"{local_size} processes on this host, which has {gpus} GPU(s): expected one GPU for each process; "
            f"lower --nproc-per-node to {gpus} or train on the CPU"
        )
    return Place(rank=rank, size=size, local_rank=local_rank, local_size=local_size)


def _whole_number(environment: Mapping[str, str], name: str, low: int) -> int:
    text = environment[name]
    if not text.isdecimal() or int(text) < low:
        raise ConfigError(f"{name}={text!r}: expected a whole number of at least {low}; launch with `{LAUNCH}`")
    return int(text)


def pick_device(wanted: str, local_rank: int) -> torch.device:
    """`auto`, `cpu` or `cuda` to this process's device. Raises ConfigError where there is no CUDA device."""
    if wanted not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device {wanted!r}: expected auto, cpu or cuda")
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("device cuda: this machine or this build of torch has no CUDA device; use device=cpu or auto")
    return torch.device("cuda", local_rank)


@contextmanager
def open_group(device: str = "auto", timeout_minutes: float = 30, init_method: str = "env://") -> Iterator[Group]:
    """Opens the process group of this job and closes it at the end, whatever happened inside.

    gloo on the CPU, nccl on CUDA. `init_method` is for launchers that meet through a file (`file:///...`).

    Raises:
        ConfigError: the launcher's variables contradict each other or this host (see `read_place`).
    """
    on_cuda = device != "cpu" and torch.cuda.is_available()
    place = read_place(os.environ, gpus=torch.cuda.device_count() if on_cuda else None)
    chosen = pick_device(device, place.local_rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    timeout = timedelta(minutes=timeout_minutes)
    if place.size == 1:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1, timeout=timeout)
    else:
        dist.init_process_group(
            backend, init_method=init_method, rank=place.rank, world_size=place.size, timeout=timeout
        )
    world = dist.group.WORLD
    assert world is not None
    try:
        yield Group(
            index=place.rank,
            size=place.size,
            local_index=place.local_rank,
            local_size=place.local_size,
            device=chosen,
            backend=backend,
            process_group=world,
        )
    finally:
        # A rank that fails must not wait here for the others: destroying is local.
        dist.destroy_process_group()
