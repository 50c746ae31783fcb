"""Requests made in memory, of any number of features, events and candidates, for EST's bench.

Legend: U users, C candidates of each, N impressions, T events, M distinct items, W width of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctr_rec.batch.batch import Batch, Ids, Jagged, Level
from ctr_rec.layers.embedding import Embedded
from ctr_rec.ops.jagged import stretches
from ctr_rec.schema.log import Feature, Kind, Side
from ctr_rec.schema.table import SparseSpec, Table

WIDTH, ROWS = 16, 1000
RECENT, LIFELONG = "recent", "lifelong"


@dataclass(frozen=True)
class Requests:
    """users: so many requests, each of one user with `candidates`. tokens: features, half of them the candidate's.

    events: of each user, all in the channel "lifelong", its newest `recent` in the channel "recent". content: width of
    the frozen vectors.
    """

    users: int
    candidates: int
    tokens: int
    events: int
    recent: int
    content: int = 128

    @property
    def spec(self) -> SparseSpec:
        own = (self.tokens + 1) // 2
        names = [f"item_{i}" for i in range(own)]
        item = [Feature(name=name, kind=Kind.CATEGORY, side=Side.ITEM, table=name) for name in names]
        item.append(Feature(name="content", kind=Kind.VECTOR, side=Side.ITEM, dim=self.content))
        who = [f"user_{i}" for i in range(self.tokens - own)]
        user = [Feature(name=name, kind=Kind.CATEGORY, side=Side.USER, table=name) for name in who]
        tables = [Table(name=n, rows=ROWS, dim=WIDTH, init_std=1.0, bags=False) for n in names]
        tables += [Table(name=n, rows=ROWS, dim=WIDTH, init_std=1.0, bags=True) for n in who]
        return SparseSpec(
            tables=tuple(tables),
            user=tuple(user),
            item=tuple(item),
            event=(),
            counters=(),
            num_actions=3,
            ticks_per_second=1,
        )


def make_requests(asked: Requests) -> tuple[Batch, Embedded]:
    """The batch of these requests and random embeddings for it. All users have the same profile, events and candidates,
    and with more candidates the first ones stay what they were.
    """
    users, events, count = asked.users, asked.events, asked.users * asked.candidates
    spec = asked.spec
    items = events + asked.candidates
    content_MC = _random(0, items, asked.content)
    first_U = torch.arange(users) * events
    whole_N = first_U.repeat_interleave(asked.candidates)
    time_T = torch.arange(events).mul(60).repeat(users)
    item_N = (events + torch.arange(asked.candidates)).repeat(users)
    end_N = whole_N + events
    nothing = Level({}, {}, {})
    ids = {f.name: Ids(f.name, torch.arange(items) % ROWS) for f in spec.item if f.table is not None}
    batch = Batch(
        tables={table.name: torch.arange(ROWS) for table in spec.collection()},
        user=torch.arange(users),
        user_bags={f.name: Jagged(torch.arange(users), torch.arange(users + 1)) for f in spec.bag_features()},
        users=nothing,
        item=torch.arange(items),
        items=Level(ids, {}, {"content": torch.nn.functional.normalize(content_MC, dim=-1)}),
        event_offsets=torch.arange(users + 1) * events,
        event_item=torch.arange(events).repeat(users),
        event_action=torch.zeros(users * events, dtype=torch.int64),
        event_time=time_T,
        event_known_at=time_T,
        event_end=torch.arange(users * events) + 1,
        events=nothing,
        impression_user=torch.arange(users).repeat_interleave(asked.candidates),
        impression_item=item_N,
        impression_time=torch.full((count,), 60 * events),
        impression_event=torch.full((count,), -1),
        impression_id=torch.arange(count),
        visible_end=end_N,
        history_length=torch.full((count,), events),
        impressions=nothing,
        label=torch.zeros(count),
        weight=torch.ones(count),
        histories={
            RECENT: _newest(end_N, min(asked.recent, events)),
            LIFELONG: _newest(end_N, events),
        },
        global_impressions=count,
        global_events=users * events,
    )
    embedded = Embedded(
        users={f.name: _random(k, 1, WIDTH).expand(users, -1) for k, f in enumerate(spec.bag_features(), 1)},
        items={name: _random(-k, items, WIDTH) for k, name in enumerate(ids, 1)},
        events={},
        impressions={},
    )
    return batch, embedded


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _newest(end_N: Tensor, count: int) -> Jagged:
    return Jagged(*stretches(end_N - count, torch.full_like(end_N, count)))
