"""A small log with users of every length, a model over it, and its impressions as requests to a scorer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctr_rec.batch.config import DataConfig, Packed
from ctr_rec.batch.reader import Reader
from ctr_rec.layers.embedding import Embedded
from ctr_rec.models.grab.config import Behaviours
from ctr_rec.models.grab.tower import GRABConfig
from ctr_rec.models.ranker import Ranker
from ctr_rec.models.tower import TowerConfig
from ctr_rec.schema.manifest import SPLITS
from ctr_rec.schema.table import EmbeddingSettings, SparseSpec, sparse_spec
from tests.batch.logs import random_items, schema, write_log

GRAB = GRABConfig(
    width=8,
    heads=2,
    head_width=4,
    ffn=8,
    span=8,
    channels={"all": Behaviours(window=6), "liked": Behaviours(actions=(1,), window=4, seconds=600)},
)
LENGTHS = (14, 1, 0, 45, 5)
ITEMS = random_items(0)
Users = list[dict[str, Any]]


@dataclass(frozen=True)
class Request:
    """One impression of the log as a scorer is asked for it."""

    user: int
    item: int
    time: int
    context: dict[str, Any]


def make_users(seed: int = 1) -> Users:
    """Equal times and requests that overlap; every item at most twice per user, and a user without any event."""
    random = np.random.default_rng(seed)
    users = []
    for user, length in enumerate(LENGTHS):
        stream = [
            {
                "time": int(random.integers(0, 25)) * 40,
                "request": int(random.integers(0, 30)),
                "item": int(random.integers(0, len(ITEMS))),
                "action": int(random.integers(0, 3)),
                "impression": True,
                "label": int(random.integers(0, 2)),
                "tab": int(random.integers(0, 5)),
                "topics": random.integers(0, 7, random.integers(0, 3)).tolist(),
                "dwell": float(random.normal()),
                "item_like_count": float(random.integers(0, 50)),
                "item_like_rate": float(random.random()),
            }
            for _ in range(length)
        ]
        users.append({"user_id": f"u{user}", "gender": user % 3, "age": float(user), "events": stream})
    return users


def requests(users: Users) -> list[Request]:
    """Of all impressions, in the order of their ids."""
    found = []
    for number, user in enumerate(users):
        events = sorted(user["events"], key=lambda e: (e["time"], e["request"], e["item"]))
        for event in events:
            start = min(e["time"] for e in events if e["request"] == event["request"])
            context = {name: event[name] for name in ("tab", "topics", "item_like_count", "item_like_rate")}
            found.append(Request(number, event["item"], start, context))
    return found


def data_config(log: Path) -> DataConfig:
    return DataConfig(log=str(log), label="liked", batches=Packed(tokens=400, context=40), shuffle=False, workers=0)


def write(folder: Path, users: Users, delay: int) -> SparseSpec:
    return sparse_spec(write_log(folder, users, ITEMS, schema(delay)), EmbeddingSettings(dim=4, init_std=0.5))


class Precise(torch.nn.Module):
    """A sparse front whose tables answer in float32 whatever their type is; from there on float64."""

    def __init__(self, front: torch.nn.Module) -> None:
        super().__init__()
        self.front = front

    def forward(self, batch: Any) -> Embedded:
        found = self.front(batch)
        parts = (found.users, found.items, found.events, found.impressions)
        return Embedded(*({name: value.double() for name, value in part.items()} for part in parts))


def make_ranker(spec: SparseSpec, tower: TowerConfig = GRAB) -> Ranker:
    """Seeded weights large enough that nothing is worth nothing; float64 behind the tables."""
    torch.manual_seed(0)
    ranker = Ranker(spec, tower, (), front_device="cpu").eval()
    for parameter in ranker.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    ranker.tower.double()
    ranker.head.double()
    ranker.front = Precise(ranker.front)  # type: ignore[assignment]
    return ranker


def packed_logits(ranker: Ranker, config: DataConfig, spec: SparseSpec) -> dict[int, float]:
    """By impression, over all splits."""
    found: dict[int, float] = {}
    with torch.no_grad():
        for split in SPLITS:
            for batch in Reader(config, spec, split, seed=0).batches(0):
                found |= dict(zip(batch.impression_id.tolist(), ranker(batch).tolist(), strict=True))
    return found
