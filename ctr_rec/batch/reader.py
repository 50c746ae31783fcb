"""The reader: a prepared log to batches. Global batch k is a function of (seed, epoch, k) alone.

So the state of a reader is two integers, whatever the number of ranks, workers or batches made ahead: a run stopped
anywhere and resumed, on the same or another number of ranks, sees every impression exactly once per epoch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from functools import cached_property, partial

from ctr_rec.batch.batch import Batch
from ctr_rec.batch.buffer import Buffer, make_buffer
from ctr_rec.batch.collate import Collator
from ctr_rec.batch.columns import Column
from ctr_rec.batch.config import DataConfig, Pointwise
from ctr_rec.batch.memory import Memory
from ctr_rec.batch.order import BufferPlan, EpochOrder, generator
from ctr_rec.batch.prefetch import Ahead, Waited, in_order
from ctr_rec.batch.source import Source
from ctr_rec.errors import ConfigError, DataError
from ctr_rec.schema.manifest import SPLITS, LogManifest, load_manifest
from ctr_rec.schema.table import SparseSpec

LOT = 1 << 17
"""Tokens that are collated together: enough to share the calls, few enough to stay near the processor."""


class Reader:
    """Batches of one split for one rank.

    config: what is read; `config.log` is the folder of the log. spec: what the model reads. split: train, valid or
    test. seed: of the order. rank, world: this rank gets its part of every global batch. grown: the log grew from the
    one the spec was made for; ids that are new in it are read as row 0.

    Raises:
        DataError: the folder is no prepared log, or has no impression in the split.
        ConfigError: an unknown label, split or action.
        SchemaError: the log is not the one the spec was made for.
    """

    def __init__(
        self,
        config: DataConfig,
        spec: SparseSpec,
        split: str,
        seed: int,
        rank: int = 0,
        world: int = 1,
        grown: bool = False,
    ) -> None:
        assert 0 <= rank < world, f"rank {rank} of {world}"
        self.manifest = load_manifest(config.log)
        _check(config, self.manifest, split)
        self._config = config
        self._spec = spec
        self._seed = seed
        self._rank, self._world = rank, world
        self._memory = Memory()
        self._source = Source(config.log, self.manifest, spec, config.label, split, self._memory, grown)
        self._order = EpochOrder(
            self.manifest.row_groups,
            SPLITS.index(split),
            config.batches,
            config.buffer_row_groups,
            seed,
            config.shuffle,
        )
        self._waited = Waited()
        if self._order.num_impressions == 0:
            raise DataError(f"log {config.log} has no impression in split {split!r}; choose other split ends")

    @property
    def waited(self) -> float:
        """Seconds that whoever asked for batches has waited for them so far."""
        return self._waited.seconds

    def num_impressions(self) -> int:
        """Impressions of the split, over all ranks."""
        return self._order.num_impressions

    def num_batches(self) -> int:
        """Global batches per epoch, the same in every epoch and on every rank."""
        return self._order.num_batches()

    def batches(self, epoch: int, start: int = 0) -> Generator[Batch]:
        """This rank's part of the global batches start, start + 1, ... of an epoch. Nothing before `start` is read.

        Raises:
            DataError: in the turn of the first batch that a damaged or wrong value would reach.
        """
        plans = [p for p in self._order.plan(epoch) if p.first_batch + p.num_batches > start]
        threaded = self._config.workers > 0
        buffers = Ahead((partial(self._load, epoch, plan) for plan in plans), threaded)
        collators, items = threading.local(), self._items

        def make(buffer: Callable[[], Buffer], batches: slice) -> list[Batch]:
            if not hasattr(collators, "own"):
                collators.own = Collator(self._spec, items, self.manifest.items, self._config, self._rank, self._world)
            return collators.own(buffer(), batches)

        try:
            together = self._together()
            tasks = self._tasks(plans, buffers, make, start, together)
            ahead = max(self._config.workers, -(-self._config.prefetch // together))
            for lot in in_order(tasks, self._config.workers, ahead, self._waited):
                yield from lot
        finally:
            buffers.close()

    def _tasks(
        self,
        plans: list[BufferPlan],
        buffers: Ahead[Buffer],
        make: Callable[[Callable[[], Buffer], slice], list[Batch]],
        start: int,
        together: int,
    ) -> Iterator[Callable[[], list[Batch]]]:
        for plan in plans:
            buffer = _once(buffers.take())
            for first in range(max(start - plan.first_batch, 0), plan.num_batches, together):
                yield partial(make, buffer, slice(first, min(first + together, plan.num_batches)))

    def _together(self) -> int:
        """Batches made in one go: a pointwise one is long enough to be worth its calls."""
        batches = self._config.batches
        if isinstance(batches, Pointwise):
            return 1
        tokens = batches.most_tokens
        return 1 if tokens is None else max(1, LOT * self._world // tokens)

    def _load(self, epoch: int, plan: BufferPlan) -> Buffer:
        return make_buffer(
            self._source.read(plan.row_groups),
            self.manifest.data_schema.action_delay,
            self._config.channels,
            self._config.batches,
            plan.num_batches,
            generator(self._seed, epoch, 1, plan.number) if self._config.shuffle else None,
            self._memory,
        )

    @cached_property
    def _items(self) -> dict[str, Column]:
        return self._source.items()


def _once(make: Callable[[], Buffer]) -> Callable[[], Buffer]:
    """Without threads a buffer is made when its first batch is asked for, and kept for the others."""
    lock = threading.Lock()
    made: list[Buffer] = []

    def get() -> Buffer:
        with lock:
            if not made:
                made.append(make())
        return made[0]

    return get


def _check(config: DataConfig, manifest: LogManifest, split: str) -> None:
    schema = manifest.data_schema
    if split not in SPLITS:
        raise ConfigError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    if config.label not in schema.labels:
        raise ConfigError(f"data.label: the log {schema.name!r} has {', '.join(schema.labels)}, got {config.label!r}")
    for name, channel in config.channels.items():
        unknown = [a for a in channel.actions or () if not 0 <= a < len(schema.actions)]
        if unknown:
            codes = ", ".join(f"{code}={action}" for code, action in enumerate(schema.actions))
            raise ConfigError(
                f"data.channels.{name}.actions: the log {schema.name!r} has {codes}; got {', '.join(map(str, unknown))}"
            )
