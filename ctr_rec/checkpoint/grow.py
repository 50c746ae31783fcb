"""Goes on from a checkpoint with more: rows in a table, whole tables, input features, another training range.

What was trained stays to the bit: old rows with their optimizer state, and old columns of dense layers with their
AdamW moments, at whatever place they now have (models say what their columns belong to, see layers/layout.py). New
rows keep the initial values by id that the model was built with, and zero optimizer state. New columns, and layers
that only new inputs need, are zeros: at first the model scores as before, and as the gradient of such a column is not
zero, it learns from the first step. (AdamW counts steps per parameter, not per column, so the first steps of a new
column are up to (1 - beta1) / sqrt(1 - beta2) learning rates long, 3.2 by default.)

The stock planner of PyTorch would refuse another size; without that check it would fill the first rows of any table, of
whatever ids. Here only tables may be longer than what is stored, only when the log's vocabularies grew from the
checkpoint's log, and what is read is counted. Each rank reads its own rows. This path is the same on every device;
TorchRec's managed-collision collections, which evict ids while training, cannot be trained on CPU and are not wired.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from ctr_rec.checkpoint.manifest import Manifest, table_sizes
from ctr_rec.checkpoint.safe_reader import SafeLoadPlanner
from ctr_rec.errors import CheckpointError
from ctr_rec.layers.layout import Axes, Layout, size
from ctr_rec.schema.manifest import LogManifest
from ctr_rec.schema.table import SparseSpec
from ctr_rec.sharding.tables import is_table, table_of

OR_ELSE = "start a new run with a warm start instead"


@dataclass(frozen=True)
class Growth:
    """What a model has more than a checkpoint. tables: (rows stored, rows now), 0 stored for a new table.

    inputs: names of new inputs of dense layers. new_log: training goes on with another log than the checkpoint's.
    since: what the checkpoint says of itself.
    """

    tables: dict[str, tuple[int, int]]
    inputs: tuple[str, ...]
    new_log: bool
    since: Manifest

    @property
    def is_any(self) -> bool:
        return self.new_log or bool(self.inputs) or any(old != new for old, new in self.tables.values())


def check_growth(stored: Manifest, log: LogManifest, spec: SparseSpec, axes: Mapping[str, Axes]) -> Growth:
    """Whether a checkpoint's rows stand for the same ids in a log, and what is new there.

    Raises:
        CheckpointError: the log did not grow from the checkpoint's, or a table lost rows, changed its width or is gone.
    """
    new_log = stored.data_fingerprint not in ("", log.fingerprint)
    if new_log and stored.data_fingerprint not in log.grown_from:
        grew = f"grew from {', '.join(log.grown_from)}" if log.grown_from else "grew from no other log"
        raise CheckpointError(
            f"--grow: the checkpoint was trained on data with fingerprint {stored.data_fingerprint}, this log has "
            f"{log.fingerprint} and {grew}: its rows would stand for other ids; prepare it with `ctr-rec prepare ... "
            f"--grow` and the log of the run, or {OR_ELSE}"
        )
    wanted = table_sizes(spec)
    wrong = [text for name in sorted(stored.tables) for text in _shrunk(name, stored.tables[name], wanted.get(name))]
    if wrong:
        raise CheckpointError(
            f"--grow: tables only gain rows, and none goes: {'; '.join(wrong)}; restore the recipe and the log, or "
            f"{OR_ELSE}"
        )
    known = {name for of in stored.layouts.values() for layout in of if layout for name, _ in layout}
    inputs = [name for of in axes.values() for layout in of if layout for name, _ in layout if name not in known]
    rows = {name: (stored.tables.get(name, (0, 0))[0], wanted[name][0]) for name in wanted}
    return Growth(rows, tuple(dict.fromkeys(inputs)) if stored.layouts else (), new_log, stored)


def _shrunk(name: str, stored: tuple[int, int], wanted: tuple[int, int] | None) -> list[str]:
    if wanted is None:
        return [f"{name} is in the checkpoint only"]
    if wanted[0] < stored[0]:
        return [f"{name} had {stored[0]} rows, has {wanted[0]}"]
    return [f"{name} was {stored[1]} wide, is {wanted[1]}"] if wanted[1] != stored[1] else []


class GrowPlanner(SafeLoadPlanner):
    """Loads a training state into one of at least its size; call `settle` when the load has come back.

    stored: the checkpoint's manifest. axes: of the live model's dense parameters (`Ranker.axes`).

    What it raises, the load raises on all ranks as CheckpointError: a dense parameter whose shape changed without a
    layout that explains it, an entry that one side lacks, or stored rows that do not cover the old table.
    """

    def __init__(self, stored: Manifest, axes: Mapping[str, Axes]) -> None:
        super().__init__()
        self._stored = stored
        self._axes = axes
        # By entry: the tensor as stored, and for each axis where its columns go in the live one.
        self._moves: dict[str, tuple[Tensor, list[Tensor]]] = {}
        self._fresh: list[Tensor] = []

    def create_local_plan(self) -> LoadPlan:
        assert self.metadata is not None
        items: list[ReadItem] = []
        for name, live in self.state_dict.items():
            stored = self.metadata.state_dict_metadata.get(name)
            if stored is None:
                self._not_stored(name, live)
            else:
                assert isinstance(stored, TensorStorageMetadata), f"{name} is no tensor"
                items += self._read(name, live, stored)
        return LoadPlan(items, planner_data=sorted(self.state_dict))

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        """On one rank: nothing that was trained may be left behind without a word."""
        assert self.metadata is not None
        live = {name for plan in global_plan for name in plan.planner_data}
        behind = sorted(self.metadata.state_dict_metadata.keys() - live)
        if behind:
            raise CheckpointError(
                f"the model has no {', '.join(behind[:4])}{', ...' if len(behind) > 4 else ''}, which the checkpoint "
                f"holds: a feature, a table or a setting is gone; restore it, or {OR_ELSE}"
            )
        return [LoadPlan(plan.items) for plan in global_plan]

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        moved = self._moves.get(index.fqn)
        return moved[0] if moved is not None else super().lookup_tensor(index)

    @torch.no_grad()
    def settle(self) -> None:
        """Puts what was read in other shapes where it belongs, and zeros where nothing was stored."""
        for live in self._fresh:
            live.zero_()
        for name, (stored, places) in self._moves.items():
            live = self.state_dict[name]
            live.zero_()
            shaped = [p.view([-1 if k == axis else 1 for k in range(len(places))]) for axis, p in enumerate(places)]
            live.index_put_(tuple(p.to(live.device) for p in shaped), stored.to(live.device))

    def _not_stored(self, name: str, live: Any) -> None:
        kind, parameter = self._place(name)
        if kind in ("table_optimizer", "table_step") or is_table(parameter):
            table = parameter if kind == "table_step" else table_of(parameter)
            if table not in self._stored.tables:
                return  # a new table keeps its start
            raise CheckpointError(f"{name} is not in the checkpoint, which has table {table!r}; {OR_ELSE}")
        if parameter not in self._axes:
            raise CheckpointError(
                f"{parameter} is not in the checkpoint and belongs to no input that is new; restore the recipe, or "
                f"{OR_ELSE}"
            )
        self._fresh.append(live)

    def _read(self, name: str, live: Any, stored: TensorStorageMetadata) -> list[ReadItem]:
        kind, parameter = self._place(name)
        if kind == "table_optimizer" or is_table(parameter):
            return _rows(name, live, stored)
        places = self._places(parameter, tuple(live.shape), tuple(stored.size))
        if places is not None:
            live = torch.zeros(stored.size, dtype=stored.properties.dtype)
            self._moves[name] = (live, places)
        return create_read_items_for_chunk_list(name, stored, _chunks(live))

    def _place(self, name: str) -> tuple[str, str]:
        """(kind, parameter or table) of an entry of `training_state`."""
        kind, parameter, *_ = self.mappings[name]
        return str(kind), str(parameter)

    def _places(self, parameter: str, now: Sequence[int], before: Sequence[int]) -> list[Tensor] | None:
        """Where stored columns go along each axis; None where all stay, as those of scalars beside a parameter do."""
        new, old = self._axes.get(parameter), self._stored.layouts.get(parameter)
        if tuple(now) == tuple(before) and (len(now) == 0 or new == old or new is None or old is None):
            return None
        if new is None or old is None or not len(new) == len(old) == len(now) == len(before):
            raise CheckpointError(
                f"{parameter} was {list(before)}, is {list(now)}, and nothing says which of its columns belong to "
                f"which input; restore the setting that changed it, or {OR_ELSE}"
            )
        return [_axis(parameter, *of) for of in zip(old, new, before, now, strict=True)]


def _axis(parameter: str, old: Layout | None, new: Layout | None, before: int, now: int) -> Tensor:
    """Place of each of `before` stored columns among `now`."""
    if old is None or new is None:
        if before != now or old is not new:
            raise CheckpointError(
                f"{parameter}: an axis that no input decides was {before} long, is {now}; restore the recipe, or "
                f"{OR_ELSE}"
            )
        return torch.arange(now)
    assert (size(old), size(new)) == (before, now), f"{parameter}: {before} and {now} columns, {old} and {new}"
    starts, at = {}, 0
    for name, width in new:
        starts[name] = (at, width)
        at += width
    places = []
    for name, width in old:
        if starts.get(name, (0, 0))[1] != width:
            found = f"is {starts[name][1]} wide" if name in starts else "is gone"
            raise CheckpointError(
                f"{parameter}: input {name!r}, {width} wide in the checkpoint, {found}; restore it, or {OR_ELSE}"
            )
        places.append(torch.arange(starts[name][0], starts[name][0] + width))
    return torch.cat(places) if places else torch.arange(0)


def _chunks(live: Any) -> list[ChunkStorageMetadata]:
    """The blocks of the whole tensor that this rank holds."""
    if isinstance(live, ShardedTensor):
        of_shards = [shard.metadata for shard in live.local_shards()]
        return [ChunkStorageMetadata(torch.Size(m.shard_offsets), torch.Size(m.shard_sizes)) for m in of_shards]
    return [ChunkStorageMetadata(torch.Size([0] * live.dim()), live.size())]


def _rows(name: str, live: Any, stored: TensorStorageMetadata) -> list[ReadItem]:
    """Reads the stored rows among those that this rank holds; rows behind them keep what they have."""
    # A sharded tensor's own `size` warns of its age; its metadata does not.
    now = tuple(live.metadata().size if isinstance(live, ShardedTensor) else live.size())
    before = tuple(stored.size)
    if len(now) != len(before) or now[1:] != before[1:] or now[0] < before[0]:
        raise CheckpointError(f"{name} was {list(before)}, is {list(now)}: only rows can be added; {OR_ELSE}")
    chunks = _chunks(live)
    items = create_read_items_for_chunk_list(name, stored, chunks)
    expected = sum(math.prod(_within(c.offsets, c.sizes, before)) for c in chunks)
    found = sum(math.prod(item.lengths) for item in items)
    if found != expected:
        raise CheckpointError(f"{name}: expected {expected} stored numbers for this rank, found {found}; copy it again")
    return items


def _within(offsets: Sequence[int], sizes: Sequence[int], limit: Sequence[int]) -> list[int]:
    return [max(0, min(o + n, end) - o) for o, n, end in zip(offsets, sizes, limit, strict=True)]
