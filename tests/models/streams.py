"""Small logs and the batches made from them by a plain loop per impression: the oracle of the model tests.

History events and impressions are kept apart, so that an impression's own event can be changed, or taken out of the
history, while the impression itself is scored as before. Everything is float64.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from ctr_rec.batch.batch import Batch, Ids, Jagged, Level
from ctr_rec.layers.embedding import Embedded
from ctr_rec.models.tower import Filling, TowerConfig
from ctr_rec.schema.log import Feature, Kind, Known, Side
from ctr_rec.schema.table import SparseSpec, Table

NUM_ACTIONS = 4
NUM_ITEMS = 40
USER_ROWS = 8
CHANNELS: dict[str, tuple[tuple[int, ...] | None, int]] = {"all": (None, 3), "liked": ((2, 3), 2)}


def feature(name: str, kind: Kind, side: Side, table: str | None = None, known: Known = Known.REQUEST) -> Feature:
    return Feature(name=name, kind=kind, side=side, table=table, known=known)


def table(name: str, rows: int, dim: int, bags: bool = False) -> Table:
    return Table(name=name, rows=rows, dim=dim, init_std=0.5, bags=bags)


SPEC = SparseSpec(
    tables=(
        table("genre", 5, 4),
        table("item", NUM_ITEMS, 4),
        table("slot", 3, 4),
        table("user", USER_ROWS, 3, bags=True),
    ),
    user=(feature("user", Kind.CATEGORY, Side.USER, "user"), feature("age", Kind.NUMBER, Side.USER)),
    item=(
        feature("item", Kind.CATEGORY, Side.ITEM, "item"),
        feature("genres", Kind.CATEGORIES, Side.ITEM, "genre"),
        feature("year", Kind.NUMBER, Side.ITEM),
    ),
    event=(
        feature("slot", Kind.CATEGORY, Side.EVENT, "slot"),
        feature("dwell", Kind.NUMBER, Side.EVENT, known=Known.ACTION),
    ),
    counters=("item_mean_count", "item_mean_rate"),
    num_actions=NUM_ACTIONS,
    ticks_per_second=1,
)
# The same with content vectors of width 3, of length 1; every seventh item has none.
CONTENT = SPEC.model_copy(
    update={"item": (*SPEC.item, Feature(name="content", kind=Kind.VECTOR, side=Side.ITEM, dim=3))}
)
ITEMS_ONLY = SPEC.model_copy(update={"user": (), "event": (), "counters": (), "item": SPEC.item[:1]})


@dataclass(frozen=True)
class Event:
    """A history event. key names it across changed copies of a log."""

    key: int
    user: int
    time: int
    request: int
    item: int
    action: int
    slot: int
    dwell: float


@dataclass(frozen=True)
class Impression:
    """A scored event; key is its own event's."""

    key: int
    user: int
    request_time: int
    request: int
    item: int
    slot: int
    counters: tuple[float, float]
    label: int


@dataclass(frozen=True)
class Log:
    """delay: known_at - time of every event."""

    events: tuple[Event, ...]
    impressions: tuple[Impression, ...]
    num_users: int
    delay: int = 0

    def hidden(self, event: Event, impression: Impression) -> bool:
        """The rule, said once more and independently of `batch/visibility.py`."""
        return event.user != impression.user or event.time + self.delay >= impression.request_time

    def stream(self, user: int) -> list[Event]:
        return sorted((e for e in self.events if e.user == user), key=lambda e: (e.time, e.request, e.item, e.key))

    def only(self, impression: Impression) -> Log:
        """The log as it stood at the request: what is visible, and that one impression."""
        visible = tuple(e for e in self.events if not self.hidden(e, impression))
        return replace(self, events=visible, impressions=(impression,))


def random_log(seed: int, delay: int = 0, num_users: int = 4, num_events: int = 11) -> Log:
    """Interleaved requests that overlap in time, ties of time, and one user without any event."""
    rng = random.Random(seed)
    events, impressions = [], []
    for user in range(num_users - 1):
        times = [rng.randrange(0, 40) * 3 for _ in range(num_events)]
        requests = [rng.randrange(5) + 10 * user for _ in range(num_events)]
        for time, request in zip(times, requests, strict=True):
            key = len(events)
            item, slot = rng.randrange(NUM_ITEMS), rng.randrange(3)
            events.append(Event(key, user, time, request, item, rng.randrange(NUM_ACTIONS), slot, rng.gauss(0, 1)))
            start = min(t for t, r in zip(times, requests, strict=True) if r == request)
            if rng.random() < 0.7:
                counters = (rng.gauss(0, 1), rng.gauss(0, 1))
                impressions.append(Impression(key, user, start, request, item, slot, counters, rng.randrange(2)))
    return Log(tuple(events), tuple(impressions), num_users, delay)


def make_batch(log: Log, filling: Filling, spec: SparseSpec = SPEC, separate: bool = False) -> Batch:
    """separate: every event and every impression gets an item row of its own, so that gradients tell them apart."""
    streams = [log.stream(user) for user in range(log.num_users)]
    positions = [[_visible(log, stream, i) for i in log.impressions] for stream in streams]
    kept = streams
    if filling is Filling.POINTWISE:
        # As the reader does: only events that some impression's channels refer to.
        used = {e.key for rows in positions for found in rows for channel in found.values() for e in channel}
        kept = [[e for e in stream if e.key in used] for stream in streams]
    events = [e for stream in kept for e in stream]
    row = {e.key: index for index, e in enumerate(events)}
    starts = [0]
    for stream in kept:
        starts.append(starts[-1] + len(stream))
    ids = [e.item for e in events] + [i.item for i in log.impressions]
    items = ids if separate else sorted(set(ids))
    item_rows = list(range(len(ids))) if separate else [items.index(i) for i in ids]
    n = len(log.impressions)
    histories = {}
    if filling is Filling.POINTWISE:
        for name in CHANNELS:
            lists = [[row[e.key] for e in positions[i.user][k][name]] for k, i in enumerate(log.impressions)]
            histories[name] = _jagged(lists)
    ends = [starts[i.user] + sum(e.time + log.delay < i.request_time for e in kept[i.user]) for i in log.impressions]
    event_ends = [starts[e.user] + sum(k.time <= e.time for k in kept[e.user]) for e in events]
    wanted = {f.name for f in (*spec.item, *spec.event, *spec.user)} | set(spec.counters)
    return Batch(
        tables={t.name: torch.arange(t.rows) for t in spec.collection()},
        user=torch.arange(log.num_users),
        user_bags={
            f.name: Jagged(torch.arange(log.num_users) % USER_ROWS, torch.arange(log.num_users + 1))
            for f in spec.bag_features()
        },
        users=_level(wanted, {}, {"age": [0.1 * u for u in range(log.num_users)]}),
        item=_ints(items),
        items=_level(
            wanted,
            {
                "item": Ids("item", _ints(items)),
                "genres": _bag("genre", [[g for g in range(5) if (i >> g) & 1] for i in items]),
            },
            {"year": [(i * 37 % 11) / 5 - 1 for i in items]},
            {"content": [content_of(i) for i in items]},
        ),
        event_offsets=_ints(starts),
        event_item=_ints(item_rows[: len(events)]),
        event_action=_ints([e.action for e in events]),
        event_time=_ints([e.time for e in events]),
        event_known_at=_ints([e.time + log.delay for e in events]),
        event_end=_ints(event_ends),
        events=_level(
            wanted, {"slot": Ids("slot", _ints([e.slot for e in events]))}, {"dwell": [e.dwell for e in events]}
        ),
        impression_user=_ints([i.user for i in log.impressions]),
        impression_item=_ints(item_rows[len(events) :]),
        impression_time=_ints([i.request_time for i in log.impressions]),
        impression_event=_ints([row.get(i.key, -1) for i in log.impressions]),
        impression_id=_ints([i.key for i in log.impressions]),
        visible_end=_ints(ends),
        history_length=_ints([sum(not log.hidden(e, i) for e in log.events) for i in log.impressions]),
        impressions=_level(
            wanted,
            {"slot": Ids("slot", _ints([i.slot for i in log.impressions]))},
            {name: [i.counters[c] for i in log.impressions] for c, name in enumerate(SPEC.counters)},
        ),
        label=torch.tensor([float(i.label) for i in log.impressions]),
        weight=torch.ones(n),
        histories=histories,
        global_impressions=n,
        global_events=len(events),
    )


def _visible(log: Log, stream: Sequence[Event], impression: Impression) -> dict[str, list[Event]]:
    found = {}
    for name, (actions, last) in CHANNELS.items():
        seen = [e for e in stream if not log.hidden(e, impression) and (actions is None or e.action in actions)]
        found[name] = seen[-last:]
    return found


def content_of(item: int) -> list[float]:
    """Frozen, of length 1, zeros for every seventh item."""
    if item % 7 == 0:
        return [0.0, 0.0, 0.0]
    angle, height = 2.4 * item, 0.6 * math.sin(item)
    across = math.sqrt(1 - height**2)
    return [across * math.cos(angle), across * math.sin(angle), height]


def _level(
    wanted: set[str],
    ids: dict[str, Ids],
    numbers: dict[str, list[float]],
    vectors: dict[str, list[list[float]]] | None = None,
) -> Level:
    return Level(
        ids={k: v for k, v in ids.items() if k in wanted},
        numbers={k: torch.tensor(v, dtype=torch.float64) for k, v in numbers.items() if k in wanted},
        vectors={
            k: torch.tensor(v, dtype=torch.float64).view(len(v), 3) for k, v in (vectors or {}).items() if k in wanted
        },
    )


def _ints(values: Sequence[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64)


def _jagged(lists: Sequence[Sequence[int]]) -> Jagged:
    lengths = _ints([len(row) for row in lists])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return Jagged(_ints([v for row in lists for v in row]), offsets)


def _bag(name: str, lists: Sequence[Sequence[int]]) -> Ids:
    jagged = _jagged(lists)
    return Ids(name, jagged.values, jagged.offsets)


def look_up(batch: Batch, spec: SparseSpec = SPEC, seed: int = 0) -> Embedded:
    """Plain indexing into seeded float64 tables; what the sparse front would give."""
    rng = torch.Generator().manual_seed(seed)
    tables = {t.name: torch.randn(t.rows, t.dim, generator=rng, dtype=torch.float64) for t in spec.tables}

    def level(values: Level) -> dict[str, Tensor]:
        return {name: _sum_rows(tables[ids.table], ids.index, ids.offsets) for name, ids in values.ids.items()}

    users = {name: _sum_rows(tables["user"], bag.values, bag.offsets) for name, bag in batch.user_bags.items()}
    return Embedded(users, level(batch.items), level(batch.events), level(batch.impressions))


def _sum_rows(rows_RD: Tensor, index: Tensor, offsets: Tensor | None) -> Tensor:
    if offsets is None:
        return rows_RD[index]
    bounds = offsets.tolist()
    parts = [rows_RD[index[a:b]].sum(0) for a, b in pairwise(bounds)]
    return torch.stack(parts) if parts else rows_RD.new_zeros(0, rows_RD.shape[1])


def _in_float32(batch: Batch, embedded: Embedded) -> tuple[Batch, Embedded]:
    def level(values: Level) -> Level:
        return replace(values, numbers=group(values.numbers), vectors=group(values.vectors))

    def group(values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: x.float() for name, x in values.items()}

    batch = replace(
        batch,
        users=level(batch.users),
        items=level(batch.items),
        events=level(batch.events),
        impressions=level(batch.impressions),
    )
    parts = (embedded.users, embedded.items, embedded.events, embedded.impressions)
    return batch, Embedded(*(group(part) for part in parts))


def spec_of(config: TowerConfig, spec: SparseSpec = SPEC) -> SparseSpec:
    """With content vectors where the tower reads them, and with the item feature that it searches by."""
    tokens = getattr(config, "tokens", None)
    read = {getattr(tokens, "content", None), getattr(getattr(tokens, "retrieval", None), "feature", None)}
    more = tuple(f for f in CONTENT.item if f.name in read and f not in spec.item)
    missing = tuple(t for t in SPEC.tables if t.name in {f.table for f in more} and t not in spec.tables)
    return spec.model_copy(update={"item": (*spec.item, *more), "tables": (*missing, *spec.tables)})


class Scorer(nn.Module):
    """Tower and head in float64, or after `.float()` in float32, in evaluation mode: a log's logits."""

    def __init__(self, config: TowerConfig, spec: SparseSpec | None = None, seed: int = 0) -> None:
        super().__init__()
        spec = spec or spec_of(config)
        torch.manual_seed(seed)
        self.filling = config.filling
        self.spec = spec
        self.tower = config.build(spec, tuple(CHANNELS) if config.filling is Filling.POINTWISE else ())
        self.head = nn.Linear(self.tower.out_width, 1)
        self.double().eval()
        # Parameters that start at zero (codes, biases) would hide a leak through them.
        for parameter in self.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.3)

    def batch(self, log: Log, separate: bool = False) -> Batch:
        return make_batch(log, self.filling, self.spec, separate)

    def forward(self, embedded: Embedded, batch: Batch) -> Tensor:
        return self.head(self.tower(embedded, batch)).squeeze(-1)

    def score(self, log: Log) -> dict[int, float]:
        """Logit by the impression's key."""
        batch = self.batch(log)
        embedded = look_up(batch, self.spec)
        if self.head.weight.dtype == torch.float32:
            batch, embedded = _in_float32(batch, embedded)
        with torch.no_grad():
            logits = self(embedded, batch)
        return dict(zip(batch.impression_id.tolist(), logits.tolist(), strict=True))
