"""The sparse front: from a batch's ids to embeddings, on one device or sharded.

Legend: U users, M distinct items, T events, N impressions, R distinct rows of a table, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from ctr_rec.batch.batch import Batch, Ids, Level
from ctr_rec.ops.jagged import embedding_bag, gather
from ctr_rec.schema.table import SparseSpec


@dataclass(frozen=True)
class Embedded:
    """Embeddings of every feature with ids, by level and feature name: users [U, D], items [M, D], ..."""

    users: dict[str, Tensor]
    items: dict[str, Tensor]
    events: dict[str, Tensor]
    impressions: dict[str, Tensor]


class SparseFront(nn.Module):
    """Looks each distinct row up once, then spreads it to items, events and impressions.

    `collection` has one feature per table, named like it, whose ids are the batch's distinct rows; `bags` has one
    feature per profile feature. Both are built on `device` ("meta" where `sharding/` places them later) and are what
    TorchRec's planner shards; either is None when the log has no such table.
    """

    def __init__(self, spec: SparseSpec, device: torch.device | str = "meta") -> None:
        super().__init__()
        rows = [
            EmbeddingConfig(name=t.name, embedding_dim=t.dim, num_embeddings=t.rows, feature_names=[t.name])
            for t in spec.collection()
        ]
        bags = [
            EmbeddingBagConfig(
                name=t.name,
                embedding_dim=t.dim,
                num_embeddings=t.rows,
                feature_names=[f.name for f in spec.bag_features() if f.table == t.name],
                pooling=PoolingType.SUM,
            )
            for t in spec.tables
            if t.bags
        ]
        self.collection = EmbeddingCollection(tables=rows, device=torch.device(device)) if rows else None
        self.bags = EmbeddingBagCollection(tables=bags, device=torch.device(device)) if bags else None

    def forward(self, batch: Batch) -> Embedded:
        rows = {}
        if self.collection is not None:
            found = self.collection(batch.collection_input)
            rows = {table: found[table].values() for table in batch.tables}
        # By key: the order of a pooled KeyedTensor's values depends on the sharding plan.
        users = self.bags(batch.bag_input).to_dict() if self.bags is not None else {}
        return Embedded(
            users=users,
            items=_spread(rows, batch.items),
            events=_spread(rows, batch.events),
            impressions=_spread(rows, batch.impressions),
        )


def _spread(rows: dict[str, Tensor], level: Level) -> dict[str, Tensor]:
    return {name: _pick(rows[ids.table], ids) for name, ids in level.ids.items()}


def _pick(rows_RD: Tensor, ids: Ids) -> Tensor:
    """Several ids per row are summed, as an embedding bag would."""
    if ids.offsets is None:
        return gather(rows_RD, ids.index)
    return embedding_bag(rows_RD, ids.index, ids.offsets, "sum")
