"""Saving while training goes on: a copy of the live tensors, and one thread that writes it.

The copy is the price: from the first save on, a rank holds its share of the tables, of both optimizers' states and the
dense weights a second time, in host memory. It is kept between saves, since taking memory costs several times what
copying into it does. `snapshot_bytes` says how much that is, before it is taken.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed._shard.sharded_tensor.shard import Shard
from torch.distributed.remote_device import _remote_device

from ctr_rec.errors import CheckpointError


def snapshot(state: Mapping[str, Any], into: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The same names and shapes in CPU memory of their own: what training does next does not reach it. No collective.

    torch's own stager copies a sharded tensor twice, each time into fresh memory.

    Args:
        into: an earlier snapshot, whose memory is filled anew where names, shapes and dtypes are the same. It is not
            to be used afterwards.
    """
    before = into or {}
    return {name: _copy(value, before.get(name)) for name, value in state.items()}


def _copy(value: Any, before: Any) -> Any:
    if isinstance(value, Mapping):
        return snapshot(value, before if isinstance(before, Mapping) else None)
    if isinstance(value, ShardedTensor):
        return _copy_sharded(value, before if isinstance(before, ShardedTensor) else None)
    if isinstance(value, Tensor):
        return _copy_tensor(value, before if isinstance(before, Tensor) else None)
    return copy.deepcopy(value)


def _copy_tensor(value: Tensor, before: Tensor | None) -> Tensor:
    if before is None or before.shape != value.shape or before.dtype != value.dtype:
        # Pinned memory is what a GPU copies to at full speed.
        before = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
    return before.copy_(value.detach())


def _copy_sharded(value: ShardedTensor, before: ShardedTensor | None) -> ShardedTensor:
    whole = copy.deepcopy(value.metadata())
    for shard in whole.shards_metadata:
        assert shard.placement is not None
        shard.placement = _remote_device(f"rank:{shard.placement.rank()}/cpu")
    by_place = {tuple(m.shard_offsets): m for m in whole.shards_metadata}
    old = {tuple(s.metadata.shard_offsets): s.tensor for s in before.local_shards()} if before is not None else {}
    shards = []
    for shard in value.local_shards():
        offsets = tuple(shard.metadata.shard_offsets)
        shards.append(Shard(_copy_tensor(shard.tensor, old.get(offsets)), by_place[offsets]))
    return ShardedTensor._init_from_local_shards_and_global_metadata(
        shards, sharded_tensor_metadata=whole, process_group=value._process_group
    )


def snapshot_bytes(state: Mapping[str, Any]) -> int:
    """Host memory that a snapshot of `state` takes on this rank."""
    total = 0
    for value in state.values():
        if isinstance(value, Mapping):
            total += snapshot_bytes(value)
        elif isinstance(value, ShardedTensor):
            total += sum(s.tensor.nbytes for s in value.local_shards())
        elif isinstance(value, Tensor):
            total += value.nbytes
    return total


class Background:
    """One job at a time in a thread of its own, on each rank the same.

    A job that fails raises in whoever waits for it next, on every rank: what a job does is a collective of a process
    group of its own, so it fails on all ranks or on none.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.what = ""
        self.seconds = 0.0

    @property
    def busy(self) -> bool:
        """Whether a job was started that nobody has waited for."""
        return self._thread is not None

    @property
    def running(self) -> bool:
        """Whether waiting would take time."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def failed(self) -> bool:
        """Whether the job has come to its end, and that end is an error. Only of this rank: ask the others too."""
        return self._error is not None

    def start(self, what: str, job: Callable[[], object]) -> None:
        """what: named in the error of a job that failed."""
        assert self._thread is None, "one job at a time: wait for the last one"
        self.what = what
        # A daemon: a process that is interrupted for good does not wait for its disk.
        self._thread = threading.Thread(target=self._run, args=(what, job), name=what, daemon=True)
        self._thread.start()

    def _run(self, what: str, job: Callable[[], object]) -> None:
        started = time.perf_counter()
        try:
            job()
        except CheckpointError as error:
            self._error = error
        # The thread's end is nobody's business but `wait`'s.
        except BaseException as error:
            self._error = CheckpointError(f"{what} failed in the background: {type(error).__name__}: {error}")
            self._error.__cause__ = error
        self.seconds = time.perf_counter() - started

    def wait(self) -> float:
        """Seconds until the job was done; 0.0 where there is none. Raises CheckpointError when it failed."""
        if self._thread is None:
            return 0.0
        started = time.perf_counter()
        self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
        return time.perf_counter() - started
