"""What a model costs: parameters, arithmetic per impression and bytes of state per user, from true lengths."""

from __future__ import annotations

from ctr_rec.batch.batch import Batch
from ctr_rec.config import Config
from ctr_rec.models.ranker import Ranker
from ctr_rec.models.tower import SplitTower
from ctr_rec.schema.table import SparseSpec


class Cost(Config):
    """dense: parameters of tower and head. sparse: rows times width over all tables, on all ranks together.

    flops_per_impression: of one forward pass through tower and head, two per multiply-add, averaged over the
    impressions of the batch it was counted on; look-ups, norms and activations are left out.
    state_bytes_per_user: what a scorer keeps of a user, averaged over those of the batch; None for a tower without.
    """

    dense: int
    sparse: int
    flops_per_impression: float
    state_bytes_per_user: float | None = None


def cost(ranker: Ranker, spec: SparseSpec, batch: Batch) -> Cost:
    """Counts on one batch of the kind that is trained on. Needs no table values: the front may be on "meta"."""
    dense = sum(p.numel() for part in (ranker.tower, ranker.head) for p in part.parameters())
    sparse = sum(t.rows * t.dim for t in spec.tables)
    flops = ranker.tower.flops(batch) + 2 * ranker.tower.out_width * batch.num_impressions
    state = ranker.tower.state_bytes(batch) / max(1, batch.num_users) if isinstance(ranker.tower, SplitTower) else None
    return Cost(
        dense=dense,
        sparse=sparse,
        flops_per_impression=flops / max(1, batch.num_impressions),
        state_bytes_per_user=state,
    )
