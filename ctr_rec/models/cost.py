"""What a model costs: parameters, arithmetic per impression and per request, and bytes of state, from true lengths.

Two counts, because a batch decides what is shared. Per impression: what the batches as read take, divided by their
impressions; a packed tower encodes a user once for all impressions that are in the batch. Per request: one user, one
visible history and 60 candidates, so that a tower with a user side computes it once; that is what EST's table 3
prints, as GFLOPs per 60 (arXiv 2602.10811; that its user side is counted once per 60 candidates is our reading).

An impression of every hundred stands for the requests: all of them would cost as much time as scoring does.
"""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from ctr_rec.batch.batch import Batch
from ctr_rec.batch.request import request_batch
from ctr_rec.config import Config
from ctr_rec.models.ranker import Branch, Ranker
from ctr_rec.models.tower import SplitTower
from ctr_rec.schema.table import SparseSpec

REQUEST_EVERY = 100


class Cost(Config):
    """dense: parameters of tower and head. beside: of the other branch, where the ranker has two; it is not served.

    sparse: rows times width over all tables, on all ranks together. flops_per_impression: of one forward pass through
    tower and head, two per multiply-add, averaged over the impressions of the batches it was counted on; look-ups,
    norms and activations are left out. flops_per_request: the same of a request of 60 candidates, averaged over
    `requests` of them; None in files written before it was counted. state_bytes_per_user: what a scorer keeps of a
    user, averaged over those of the batches; None for a tower without.
    """

    dense: int
    beside: int = 0
    sparse: int
    flops_per_impression: float
    flops_per_request: float | None = None
    requests: int = 0
    state_bytes_per_user: float | None = None


class CostCounter:
    """Adds up what one branch of a ranker costs over the batches it is shown; the front may be on "meta".

    reach: of the branch's tower, see `TowerConfig.reach`. sums: float64 [6], of this rank's batches: impressions,
    their FLOPs, requests, their FLOPs, users, bytes of their states. Sums of several ranks are added up by the caller.
    seconds: that counting took, for whoever measures what goes on around it.
    """

    def __init__(self, ranker: Ranker, branch: Branch = Branch.SEQUENCE, reach: int = 0) -> None:
        parts = {Branch.SEQUENCE: (ranker.tower, ranker.head)}
        if ranker.beside is not None:
            parts[Branch.BESIDE] = (ranker.beside.tower, ranker.beside.head)
        count = {b: sum(p.numel() for module in modules for p in module.parameters()) for b, modules in parts.items()}
        self._tower, self._head = parts[branch]
        self._dense = count.pop(branch)
        self._beside = sum(count.values())
        self._reach = reach
        self.sums: npt.NDArray[np.float64] = np.zeros(6)
        self.seconds = 0.0

    def add(self, batch: Batch) -> None:
        """Counts a batch of the kind that the branch is trained on; a stand-in without weight counts nothing."""
        if not bool((batch.weight > 0).any()):
            return
        started = time.perf_counter()
        before, now = int(self.sums[0]), batch.num_impressions
        chosen = range(-before % REQUEST_EVERY, now, REQUEST_EVERY)
        asked = sum(self._flops(request_batch(batch, n, reach=self._reach)) for n in chosen)
        state = self._tower.state_bytes(batch) if isinstance(self._tower, SplitTower) else 0
        self.sums += (now, self._flops(batch), len(chosen), asked, batch.num_users, state)
        self.seconds += time.perf_counter() - started

    def cost(self, spec: SparseSpec, sums: npt.NDArray[np.float64] | None = None) -> Cost:
        """sums: of all ranks together; None takes this rank's own."""
        impressions, flops, requests, asked, users, state = (self.sums if sums is None else sums).tolist()
        return Cost(
            dense=self._dense,
            beside=self._beside,
            sparse=sum(t.rows * t.dim for t in spec.tables),
            flops_per_impression=flops / max(1, impressions),
            flops_per_request=asked / max(1, requests),
            requests=int(requests),
            state_bytes_per_user=state / max(1, users) if isinstance(self._tower, SplitTower) else None,
        )

    def _flops(self, batch: Batch) -> int:
        return self._tower.flops(batch) + 2 * self._head.in_features * batch.num_impressions


def cost(ranker: Ranker, spec: SparseSpec, batch: Batch, branch: Branch = Branch.SEQUENCE, reach: int = 0) -> Cost:
    """Counts on one batch. Arguments as of `CostCounter`."""
    counter = CostCounter(ranker, branch, reach)
    counter.add(batch)
    return counter.cost(spec)
