"""The same rule from the stored log to the logit: reader, sparse front and tower together, on logs changed on disk."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctr_rec.batch.config import Alone, Batches, Channel, DataConfig, Packed, Pointwise
from ctr_rec.batch.reader import Reader
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.retrieval import RetrievalSettings
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.baselines.dcn_v2 import DCNv2Config, Structure
from ctr_rec.models.baselines.din import DINConfig
from ctr_rec.models.baselines.hstu import HSTUConfig
from ctr_rec.models.baselines.mlp import MLPConfig
from ctr_rec.models.est.packed import PackedESTConfig
from ctr_rec.models.est.tower import ESTConfig
from ctr_rec.models.grab.config import Behaviours, Views
from ctr_rec.models.grab.tower import GRABConfig
from ctr_rec.models.ranker import Ranker
from ctr_rec.models.tower import Filling, TowerConfig
from ctr_rec.schema.manifest import SPLITS
from ctr_rec.schema.table import EmbeddingSettings, sparse_spec
from tests.batch.logs import random_items, schema, write_log


def tokens(searched: str) -> TokenSettings:
    """EST's, of the channel "all" and of what the candidate retrieves from another."""
    search = RetrievalSettings(channel=searched, most=2)
    return TokenSettings(width=6, recent="all", content="content", retrieval=search, simtier=True)


CASES: dict[str, TowerConfig] = {
    "mlp": MLPConfig(),
    "dcn_v2": DCNv2Config(cross_layers=2),
    "dcn_v2_stacked": DCNv2Config(cross_layers=1, rank=3, structure=Structure.STACKED),
    "din": DINConfig(),
    "hstu": HSTUConfig(width=8, heads=2, head_width=4, window=6, layers=2),
    "grab": GRABConfig(
        width=8,
        heads=2,
        head_width=4,
        ffn=8,
        span=8,
        channels={"all": Behaviours(window=6), "liked": Behaviours(actions=(1,), window=4, seconds=600)},
    ),
    "grab_partial_only": GRABConfig(
        width=8, heads=2, head_width=4, ffn=8, span=8, views=Views.PARTIAL, channels={"all": Behaviours(window=8)}
    ),
    "grab_full_only_profile_tokens": GRABConfig(
        width=8,
        heads=2,
        head_width=4,
        ffn=8,
        span=8,
        views=Views.FULL,
        profile_tokens=True,
        channels={"all": Behaviours(window=8)},
    ),
    "est": ESTConfig(tokens=tokens("liked"), neighbours=2),
    "packed_est": PackedESTConfig(tokens=tokens("lifelong"), neighbours=2, window=5, lifelong=12),
}
ALONE = {"hstu": Alone(impressions=7), "grab": Alone(impressions=16, history=5, tokens=60), "din": Pointwise(history=3)}
"""Fillings besides each tower's usual one."""
FILLED = [(name, None) for name in CASES] + list(ALONE.items())
IDS = [*CASES, *(f"{name}-alone" for name in ALONE)]
CHANNELS = {"all": Channel(last=5), "liked": Channel(actions=(1,), last=3)}
ITEMS = random_items(0)
Users = list[dict[str, Any]]
Key = tuple[int, int]  # user and item: an item appears once per user in these logs


def _users(seed: int, count: int = 5, events: int = 14) -> Users:
    """Overlapping requests, ties of time, every item once per user. Features hang on the item, so that none repeats.

    The last user begins at the instant at which the one before it ends: a tie that is none.
    """
    random = np.random.default_rng(seed)
    users = []
    for user in range(count):
        items = random.permutation(len(ITEMS) - 5)[:events]
        times, requests = random.integers(0, 25, events) * 40, random.integers(0, 6, events)
        stream = [
            {
                "time": int(t),
                "request": int(r),
                "item": int(i),
                "action": int(random.integers(0, 3)),
                "impression": bool(random.random() < 0.8),
                "label": int(random.integers(0, 2)),
                "tab": int(random.integers(0, 5)),
                "topics": random.integers(0, 7, random.integers(0, 3)).tolist(),
                "dwell": float(random.normal()),
                "item_like_count": float(random.integers(0, 50)),
                "item_like_rate": float(random.random()),
            }
            for t, r, i in zip(times, requests, items, strict=True)
        ]
        if user == count - 1:
            shift = max(e["time"] for e in users[-1]["events"]) - min(e["time"] for e in stream)
            stream = [{**e, "time": e["time"] + shift, "impression": True} for e in stream]
        users.append({"user_id": f"u{user}", "gender": user % 3, "age": float(user), "events": stream})
    users.append({"user_id": "nobody", "events": []})
    return users


def _scores(
    folder: Path, users: Users, tower: TowerConfig, delay: int, batches: Batches | None = None
) -> dict[Key, float]:
    """Logit of every impression of every split: float32 tables, float64 from there on, seeded weights.

    batches: None for the tower's usual filling.
    """
    manifest = write_log(folder, users, ITEMS, schema(delay))
    spec = sparse_spec(manifest, EmbeddingSettings(dim=4, init_std=0.5))
    packed = tower.filling is Filling.PACKED
    data = DataConfig(
        log=str(folder),
        label="liked",
        batches=batches or (Packed(tokens=400, context=40) if packed else Pointwise(impressions=16)),
        channels={} if packed else CHANNELS,
        shuffle=False,
        workers=0,
    )
    torch.manual_seed(0)
    ranker = Ranker(spec, tower, tuple(data.channels), front_device="cpu").eval()
    for parameter in ranker.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    ranker.tower.double()
    ranker.head.double()
    found: dict[Key, float] = {}
    for split in [s for s, count in zip(SPLITS, manifest.impressions, strict=True) if count]:
        for batch in Reader(data, spec, split, seed=0).batches(0):
            with torch.no_grad():
                logits = ranker.head(ranker.tower(_double(ranker.front(batch)), batch)).squeeze(-1)
            users_N = batch.user[batch.impression_user].tolist()
            items_N = batch.item[batch.impression_item].tolist()
            for user, item, logit, weight in zip(users_N, items_N, logits.tolist(), batch.weight.tolist(), strict=True):
                assert weight == 1
                assert (user, item) not in found
                found[user, item] = logit
    return found


def _double(embedded: Embedded) -> Embedded:
    """The tables answer in float32 whatever their type is."""
    parts = (embedded.users, embedded.items, embedded.events, embedded.impressions)
    return Embedded(*({name: value.double() for name, value in part.items()} for part in parts))


def _flip(event: dict[str, Any], event_time: int) -> list[dict[str, Any]]:
    return [{**event, "action": (event["action"] + 1) % 3, "label": 1 - event["label"], "dwell": -event["dwell"]}]


def _replace_item(event: dict[str, Any], event_time: int) -> list[dict[str, Any]]:
    # The last five items are kept for replacements, so that keys of other impressions stay unique.
    return [{**event, "item": 34 + event["item"] % 5, "tab": (event["tab"] + 1) % 5, "impression": False}]


def _move(event: dict[str, Any], event_time: int) -> list[dict[str, Any]]:
    return [{**event, "time": event_time + 3, "request": 1000 + event["request"], "impression": False}]


def _delete(event: dict[str, Any], event_time: int) -> list[dict[str, Any]]:
    return []


def _insert(event: dict[str, Any], event_time: int) -> list[dict[str, Any]]:
    new = {**event, "item": 34 + event["item"] % 5, "impression": False}
    return [event, {**new, "time": event_time, "request": 2000 + event["request"]}]


CHANGES: dict[str, Callable[[dict[str, Any], int], list[dict[str, Any]]]] = {
    "flip": _flip,
    "replace_item": _replace_item,
    "move": _move,
    "delete": _delete,
    "insert": _insert,
}


def _request_time(events: list[dict[str, Any]], request: int) -> int:
    return min(e["time"] for e in events if e["request"] == request)


def _change_hidden(users: Users, key: Key, change: str, delay: int) -> tuple[Users, bool]:
    """Changes all that the impression `key` may not see but itself (its own outcome too, for flips)."""
    user, item = key
    own = next(e for e in users[user]["events"] if e["item"] == item)
    start = _request_time(users[user]["events"], own["request"])
    out, changed = deepcopy(users), False
    for number, row in enumerate(out):
        events: list[dict[str, Any]] = []
        for event in row["events"]:
            hidden = number != user or event["time"] + delay >= start
            # The request's first event says when the request was: it is no hidden input but the query's own clock.
            clock = number == user and event["request"] == own["request"] and event["time"] == start
            is_own = number == user and event["item"] == item
            if hidden and (change == "flip" or not (is_own or clock)):
                changed = True
                # Another impression's counters tell of a time of its own.
                event = event if is_own else {**event, "item_like_rate": 1 - event["item_like_rate"]}
                events += CHANGES[change](event, max(start, event["time"]))
            else:
                events.append(event)
        row["events"] = events
    return out, changed


@pytest.mark.parametrize("delay", [0, 45])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("name", "batches"), FILLED, ids=IDS)
def test_hidden_events_do_not_matter(
    name: str, batches: Batches | None, change: str, delay: int, tmp_path: Path
) -> None:
    users = _users(3)
    base = _scores(tmp_path / "base", users, CASES[name], delay, batches)
    assert len(base) > 40
    tied = [key for key in sorted(base) if _has_earlier_tie(users, key)]
    assert len(tied) >= 3
    tried = 0
    for key in [*tied[len(name) % 3 :: 3][:3], *sorted(base)[len(name) :: 29]]:
        changed, any_hidden = _change_hidden(users, key, change, delay)
        if not any_hidden:
            continue
        tried += 1
        score = _scores(tmp_path / f"{tried}", changed, CASES[name], delay, batches)[key]
        assert score == pytest.approx(base[key], rel=0, abs=1e-11), key
    assert tried >= 3


@pytest.mark.parametrize(("name", "batches"), FILLED, ids=IDS)
def test_visible_events_do_matter(name: str, batches: Batches | None, tmp_path: Path) -> None:
    users = _users(3)
    base = _scores(tmp_path / "base", users, CASES[name], 0, batches)
    key = max(base, key=lambda k: _request_time(users[k[0]]["events"], _own(users, k)["request"]))
    newest = _visible(users, key)[-1]
    newest["dwell"] += 1.0
    assert abs(_scores(tmp_path / "moved", users, CASES[name], 0, batches)[key] - base[key]) > 1e-6


@pytest.mark.parametrize(("name", "batches"), [("grab", ALONE["grab"]), ("din", ALONE["din"])])
def test_what_lies_before_the_given_history_does_not_matter(name: str, batches: Batches, tmp_path: Path) -> None:
    """Events are cut, not windows: the oldest event given does matter, the one before it does not in any layer."""
    assert not isinstance(batches, Packed)
    assert batches.history is not None
    users = _users(3)
    base = _scores(tmp_path / "base", users, CASES[name], 0, batches)
    longest = max(base, key=lambda key: len(_visible(users, key)))
    oldest = _visible(users, longest)[-batches.history]
    before = _visible(users, longest)[-batches.history - 1]
    for number, (event, matters) in enumerate([(before, False), (oldest, True)]):
        event["dwell"] += 1.0
        event["action"] = (event["action"] + 1) % 3
        moved = _scores(tmp_path / str(number), users, CASES[name], 0, batches)[longest]
        assert (abs(moved - base[longest]) > 1e-6) == matters
        if not matters:
            assert moved == pytest.approx(base[longest], rel=0, abs=1e-12)


def _visible(users: Users, key: Key) -> list[dict[str, Any]]:
    """What the impression may see, in the order of the stream."""
    start = _request_time(users[key[0]]["events"], _own(users, key)["request"])
    found = [e for e in users[key[0]]["events"] if e["time"] < start]
    return sorted(found, key=lambda e: (e["time"], e["request"], e["item"]))


def _has_earlier_tie(users: Users, key: Key) -> bool:
    """Whether the request is one instant at which another event of the user stands before it in the stream."""
    own = _own(users, key)
    ties = [e for e in users[key[0]]["events"] if e["time"] == own["time"]]
    first = min(ties, key=lambda e: (e["request"], e["item"]))
    return _request_time(users[key[0]]["events"], own["request"]) == own["time"] and first is not own


def _own(users: Users, key: Key) -> dict[str, Any]:
    return next(e for e in users[key[0]]["events"] if e["item"] == key[1])
