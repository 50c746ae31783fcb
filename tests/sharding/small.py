"""A ranker and batches small enough to train in milliseconds, with all that sharding has to get right.

Tables for items (rows by themselves and genre as a second feature) and for profiles (bags), a dense part, jagged
histories, unequal shares per rank, and a rank that sometimes has nothing but the zero-weight stand-in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ctr_rec.schema.table import Table

ITEMS, GENRES, AGES, WORDS = 101, 7, 9, 30


def tables(**sharding: str) -> list[Table]:
    """Four tables; keyword arguments fix the placement of some, as a recipe would."""
    sizes = {"item": (ITEMS, 8, False), "genre": (GENRES, 8, False), "age": (AGES, 4, True), "word": (WORDS, 4, True)}
    return [
        Table(name=n, rows=r, dim=d, init_std=0.1, bags=b, sharding=sharding.get(n)) for n, (r, d, b) in sizes.items()
    ]


@dataclass(frozen=True)
class Impressions:
    """item: [N]. history: values and offsets [N + 1]. age: [N]. words: values and offsets. label, weight: [N]."""

    item: Tensor
    history: Tensor
    history_offsets: Tensor
    age: Tensor
    words: Tensor
    word_offsets: Tensor
    label: Tensor
    weight: Tensor
    of_global: int


def global_batch(step: int, size: int = 23) -> Impressions:
    rng = np.random.default_rng([7, step])
    lengths, words = rng.integers(0, 6, size), rng.integers(0, 4, size)
    item = torch.from_numpy(rng.integers(0, ITEMS, size))
    return Impressions(
        item=item,
        history=torch.from_numpy(rng.integers(0, ITEMS, lengths.sum())),
        history_offsets=torch.from_numpy(np.concatenate([[0], lengths.cumsum()])),
        age=torch.from_numpy(rng.integers(0, AGES, size)),
        words=torch.from_numpy(rng.integers(0, WORDS, words.sum())),
        word_offsets=torch.from_numpy(np.concatenate([[0], words.cumsum()])),
        label=((item + torch.from_numpy(rng.integers(0, 8, size) == 0)) % 2).float(),
        weight=torch.ones(size),
        of_global=size,
    )


def share(whole: Impressions, step: int, rank: int, ranks: int) -> Impressions:
    """This rank's part of a global batch: unequal, sometimes nothing but a stand-in of weight 0."""
    size = whole.item.shape[0]
    cuts = [0, *sorted((step * (5 + 3 * r) + 7 * r) % (size + 1) for r in range(ranks - 1)), size]
    if step % 5 == 0 and ranks > 1:
        cuts[1] = 0
    low, high = cuts[rank], cuts[rank + 1]
    if low == high:
        zero = torch.zeros(1, dtype=torch.int64)
        none, offsets = zero[:0], torch.zeros(2, dtype=torch.int64)
        return Impressions(zero, none, offsets, zero, none, offsets, torch.zeros(1), torch.zeros(1), size)
    ho, wo = whole.history_offsets, whole.word_offsets
    return Impressions(
        item=whole.item[low:high],
        history=whole.history[ho[low] : ho[high]],
        history_offsets=ho[low : high + 1] - ho[low],
        age=whole.age[low:high],
        words=whole.words[wo[low] : wo[high]],
        word_offsets=wo[low : high + 1] - wo[low],
        label=whole.label[low:high],
        weight=whole.weight[low:high],
        of_global=size,
    )


def _config(table: Table) -> dict[str, Any]:
    return {
        "name": table.name,
        "embedding_dim": table.dim,
        "num_embeddings": table.rows,
        "feature_names": [table.name],
    }


class SmallRanker(nn.Module):
    def __init__(self, specs: list[Table]) -> None:
        super().__init__()
        torch.manual_seed(5)
        rows = [EmbeddingConfig(**_config(t)) for t in specs if not t.bags]
        bags = [EmbeddingBagConfig(**_config(t)) for t in specs if t.bags]
        self.collection = EmbeddingCollection(tables=rows, device=torch.device("meta"))
        self.bags = EmbeddingBagCollection(tables=bags, device=torch.device("meta"))
        self.head = nn.Sequential(nn.Linear(8 + 8 + 8 + 4 + 4, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, batch: Impressions) -> Tensor:
        ids, index = torch.unique(torch.cat([batch.item, batch.history]), return_inverse=True)
        genres = torch.arange(GENRES)
        found = self.collection(
            KeyedJaggedTensor(
                keys=["item", "genre"],
                values=torch.cat([ids, genres]),
                lengths=torch.tensor([ids.shape[0], GENRES]),
            )
        )
        size = batch.item.shape[0]
        item_R, genre_R = found["item"].values(), found["genre"].values()
        candidate, past = index[:size], index[size:]
        owner = torch.repeat_interleave(torch.arange(size), batch.history_offsets.diff())
        history = torch.zeros(size, item_R.shape[1]).index_add(0, owner, item_R[past])
        lengths = torch.cat([torch.ones(size, dtype=torch.int64), batch.word_offsets.diff()])
        profile = self.bags(
            KeyedJaggedTensor(keys=["age", "word"], values=torch.cat([batch.age, batch.words]), lengths=lengths)
        ).to_dict()
        inputs = [item_R[candidate], genre_R[batch.item % GENRES], history, profile["age"], profile["word"]]
        return self.head(torch.cat(inputs, dim=1)).squeeze(-1)
