"""What a model costs: parameters, arithmetic per impression and bytes of state per user, from true lengths."""

from __future__ import annotations

from ctr_rec.batch.batch import Batch
from ctr_rec.config import Config
from ctr_rec.models.ranker import Branch, Ranker
from ctr_rec.models.tower import SplitTower
from ctr_rec.schema.table import SparseSpec


class Cost(Config):
    """dense: parameters of tower and head. beside: of the other branch, where the ranker has two; it is not served.

    sparse: rows times width over all tables, on all ranks together. flops_per_impression: of one forward pass through
    tower and head, two per multiply-add, averaged over the impressions of the batch it was counted on; look-ups, norms
    and activations are left out. state_bytes_per_user: what a scorer keeps of a user, averaged over those of the batch;
    None for a tower without.
    """

    dense: int
    beside: int = 0
    sparse: int
    flops_per_impression: float
    state_bytes_per_user: float | None = None


def cost(ranker: Ranker, spec: SparseSpec, batch: Batch, branch: Branch = Branch.SEQUENCE) -> Cost:
    """Counts on one batch of the kind that the branch is trained on. The front may be on "meta"."""
    parts = {Branch.SEQUENCE: (ranker.tower, ranker.head)}
    if ranker.beside is not None:
        parts[Branch.BESIDE] = (ranker.beside.tower, ranker.beside.head)
    count = {b: sum(p.numel() for module in modules for p in module.parameters()) for b, modules in parts.items()}
    tower, head = parts[branch]
    flops = tower.flops(batch) + 2 * head.in_features * batch.num_impressions
    return Cost(
        dense=count.pop(branch),
        beside=sum(count.values()),
        sparse=sum(t.rows * t.dim for t in spec.tables),
        flops_per_impression=flops / max(1, batch.num_impressions),
        state_bytes_per_user=tower.state_bytes(batch) / max(1, batch.num_users)
        if isinstance(tower, SplitTower)
        else None,
    )
