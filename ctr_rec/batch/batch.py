"""The batch: the only thing a model receives. Jagged, on four levels, nothing padded and nothing stored twice.

Legend: U users, T packed events, M distinct items, N impressions, P (impression, history event) pairs, R rows.

    user        0           1        (U = 2)
    events      a b c       d e      (T = 5)   event_offsets = [0, 3, 5], sorted by known_at inside a user
    items       7 9                  (M = 2)   event_item = [0, 1, 0, 0, 1]: rows of the batch's item level
    impressions x y z                (N = 3)   impression_user = [0, 0, 1], visible_end = [1, 3, 4]:
                                               x sees a; y sees a b c; z sees d
    history of a channel, last 2     offsets = [0, 1, 3, 4], values = [0, 1, 2, 3]: positions in the packed events

A categorical feature holds indexes into the *distinct* rows of its table that this batch needs (`tables`), so a row
is looked up, and moved between ranks, once. User profile bags hold table rows directly.

Three ways to fill the same type: pointwise (independent impressions; `events` are those that some history refers to),
packed (whole users), and alone (every impression a user of its own with its copy of what it is given).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


@dataclass(frozen=True)
class Jagged:
    """values[offsets[i] : offsets[i + 1]] belong to row i. values: [V, ...], offsets: int64[rows + 1]."""

    values: Tensor
    offsets: Tensor

    def lengths(self) -> Tensor:
        return self.offsets[1:] - self.offsets[:-1]


@dataclass(frozen=True)
class Ids:
    """A categorical feature: index into the distinct rows of `table`. offsets None: exactly one id per row."""

    table: str
    index: Tensor
    offsets: Tensor | None = None


@dataclass(frozen=True)
class Level:
    """Inputs of one level: categorical ids, standardised numbers [rows] and vectors [rows, dim], by feature name."""

    ids: dict[str, Ids]
    numbers: dict[str, Tensor]
    vectors: dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """See the module. Times are int64 in the log's unit; `*_item` index the item level.

    tables: per table of the embedding collection (all of them, in the spec's order), its distinct rows in this batch,
        int64[R], ascending.
    user_bags: per user feature with ids (all of them, in the spec's order), table rows, one bag per user.
    event_action: int64[T], action code of each history event (never the candidate's own).
    visible_end: int64[N], end of the impression's visible prefix in the packed events.
    event_end: int64[T], end of what each history event sees (itself, its ties, everything before).
    impression_event: int64[N], the impression's own position among the events, -1 where it is not among them.
    impression_id: int64[N], unique within the log. history_length: int64[N], visible events before any cut.
    weight: float32[N]; 0 marks the stand-in that a rank without impressions receives.
    histories: per channel, positions among the events of what the impression reads, oldest first; empty in packed
        batches unless the recipe asks for channels.
    global_impressions, global_events: of the whole global batch over all ranks, for the loss and the log line. In a
        pointwise batch an event counts once for every impression and channel that reads it.
    """

    tables: dict[str, Tensor]
    user: Tensor
    user_bags: dict[str, Jagged]
    users: Level
    item: Tensor
    items: Level
    event_offsets: Tensor
    event_item: Tensor
    event_action: Tensor
    event_time: Tensor
    event_known_at: Tensor
    event_end: Tensor
    events: Level
    impression_user: Tensor
    impression_item: Tensor
    impression_time: Tensor
    impression_event: Tensor
    impression_id: Tensor
    visible_end: Tensor
    history_length: Tensor
    impressions: Level
    label: Tensor
    weight: Tensor
    histories: dict[str, Jagged]
    global_impressions: int
    global_events: int

    def rows_input(self, tables: Sequence[str]) -> KeyedJaggedTensor:
        """Distinct rows of these tables as one KJT of stride 1: the look-up of an embedding collection."""
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

        rows = [self.tables[table] for table in tables]
        lengths = torch.tensor([r.shape[0] for r in rows], dtype=torch.int64, device=self.label.device)
        return KeyedJaggedTensor(keys=list(tables), values=torch.cat(rows), lengths=lengths, stride=1)

    @property
    def bag_input(self) -> KeyedJaggedTensor:
        """Profile bags as one KJT whose stride is the number of users."""
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

        bags = list(self.user_bags.values())
        return KeyedJaggedTensor(
            keys=list(self.user_bags),
            values=torch.cat([b.values for b in bags]),
            lengths=torch.cat([b.lengths() for b in bags]),
            stride=self.num_users,
        )

    @property
    def num_users(self) -> int:
        return self.user.shape[0]

    @property
    def num_events(self) -> int:
        return self.event_item.shape[0]

    @property
    def num_impressions(self) -> int:
        return self.label.shape[0]

    @property
    def num_tokens(self) -> int:
        """Tokens a tower attends over: pairs of a pointwise batch, events plus candidates of a packed one."""
        if self.histories:
            return sum(h.values.shape[0] for h in self.histories.values())
        return self.num_events + self.num_impressions

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        return _apply(self, lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        return _apply(self, lambda t: t.pin_memory())

    def record_stream(self, stream: Any) -> None:
        """TorchRec's pipeline calls this so that memory is not reused while the stream still reads it."""

        def record(t: Tensor) -> Tensor:
            t.record_stream(stream)
            return t

        _apply(self, record)


def _apply(value: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return fn(value)
    if isinstance(value, dict):
        return {k: _apply(v, fn) for k, v in value.items()}
    if isinstance(value, (Batch, Level, Ids, Jagged)):
        return replace(value, **{f.name: _apply(getattr(value, f.name), fn) for f in fields(value)})
    return value
