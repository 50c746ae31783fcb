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

    `collections` holds one embedding collection per width (TorchRec asks for one width in each), with one feature per
    table, named like it, whose ids are the batch's distinct rows; `bags` has one feature per profile feature, None
    without such features. All are built on `device` ("meta" where `sharding/` places them later) and are what
    TorchRec's planner shards.

    mean_gradients: what flows back into a row of a collection is the mean over the events and impressions of the batch
    at which it stands, instead of the sum. Profile bags keep the sum.
    """

    def __init__(self, spec: SparseSpec, device: torch.device | str = "meta", mean_gradients: bool = False) -> None:
        super().__init__()
        self.mean_gradients = mean_gradients
        widths: dict[int, list[EmbeddingConfig]] = {}
        for t in spec.collection():
            config = EmbeddingConfig(name=t.name, embedding_dim=t.dim, num_embeddings=t.rows, feature_names=[t.name])
            widths.setdefault(t.dim, []).append(config)
        self.tables = {f"width_{dim}": tuple(c.name for c in configs) for dim, configs in widths.items()}
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
        self.collections = nn.ModuleDict(
            {
                f"width_{dim}": EmbeddingCollection(tables=configs, device=torch.device(device))
                for dim, configs in widths.items()
            }
        )
        self.bags = EmbeddingBagCollection(tables=bags, device=torch.device(device)) if bags else None

    def forward(self, batch: Batch) -> Embedded:
        # All look-ups are under way before the first is waited for.
        found = {name: lookup(batch.rows_input(self.tables[name])) for name, lookup in self.collections.items()}
        rows = {table: found[name][table].values() for name, tables in self.tables.items() for table in tables}
        if self.mean_gradients:
            rows = {table: _mean_gradient(rows_RD, occurrences(batch, table)) for table, rows_RD in rows.items()}
        # By key: the order of a pooled KeyedTensor's values depends on the sharding plan.
        users = self.bags(batch.bag_input).to_dict() if self.bags is not None else {}
        return Embedded(
            users=users,
            items=_spread(rows, batch.items),
            events=_spread(rows, batch.events),
            impressions=_spread(rows, batch.impressions),
        )


def occurrences(batch: Batch, table: str) -> Tensor:
    """Events and impressions at which each distinct row of a table stands, by whatever feature. float [R]."""
    items = batch.item.shape[0]
    of_item_M = torch.bincount(batch.event_item, minlength=items) + torch.bincount(
        batch.impression_item, minlength=items
    )
    count_R = torch.zeros(batch.tables[table].shape[0], device=batch.label.device)
    for level, times in ((batch.items, of_item_M), (batch.events, None), (batch.impressions, None)):
        for ids in level.ids.values():
            if ids.table != table:
                continue
            each = torch.ones_like(ids.index) if times is None else times
            if times is not None and ids.offsets is not None:
                each = times.repeat_interleave(ids.offsets.diff())
            count_R.index_add_(0, ids.index, each.to(count_R.dtype))
    return count_R


def _mean_gradient(rows_RD: Tensor, count_R: Tensor) -> Tensor:
    """The same values to the bit; the gradient of each row divided by its count."""
    still_RD = rows_RD.detach()
    return still_RD + (rows_RD - still_RD) / count_R.clamp(min=1).unsqueeze(-1)


def _spread(rows: dict[str, Tensor], level: Level) -> dict[str, Tensor]:
    return {name: _pick(rows[ids.table], ids) for name, ids in level.ids.items()}


def _pick(rows_RD: Tensor, ids: Ids) -> Tensor:
    """Several ids per row are summed, as an embedding bag would."""
    if ids.offsets is None:
        return gather(rows_RD, ids.index)
    return embedding_bag(rows_RD, ids.index, ids.offsets, "sum")
