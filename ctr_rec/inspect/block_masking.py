"""What a trained full attention scores when one of its blocks is masked at test (EST, Table 1), compared in pairs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from ctr_rec.batch.batch import Batch
from ctr_rec.metrics.bootstrap import Interval, ResampledMetrics, percentile_interval, used_codes, user_counts
from ctr_rec.metrics.inputs import as_labels, as_scores
from ctr_rec.models.baselines.full_attention import Block, Mask

METRICS = ("auc", "gauc")
WAYS = {"renormalised": True, "not renormalised": False}
NOTHING = Mask()
MASKS = (NOTHING, *(Mask(frozenset({block}), renormalise) for block in Block for renormalise in WAYS.values()))


@dataclass(frozen=True)
class Effects:
    """metrics: of the model as it is. differences: by metric, block and way, masked minus as it is, intervals of 95 %
    clustered by user."""

    metrics: dict[str, float]
    differences: dict[str, dict[Block, dict[str, Interval]]]


@dataclass
class BlockMasking:
    """Logits of every mask over the impressions that were added."""

    _logits: dict[Mask, list[np.ndarray]] = field(default_factory=lambda: {mask: [] for mask in MASKS})
    _labels: list[np.ndarray] = field(default_factory=list)
    _users: list[np.ndarray] = field(default_factory=list)

    def add(self, logits: dict[Mask, Tensor], batch: Batch) -> None:
        """logits: [N] for each of `MASKS`. A stand-in of weight 0 counts nothing."""
        real = (batch.weight > 0).cpu()
        for mask in MASKS:
            self._logits[mask].append(logits[mask].float().cpu()[real].numpy())
        self._labels.append(batch.label.cpu()[real].numpy())
        self._users.append(batch.user[batch.impression_user].cpu()[real].numpy())

    def effects(self, replicates: int = 500, seed: int = 0) -> Effects:
        label = as_labels(np.concatenate(self._labels))
        codes, num_users = used_codes(np.concatenate(self._users))
        drawn = list(user_counts(num_users, replicates, seed))
        point, replicated = {}, {}
        for mask, parts in self._logits.items():
            metrics = ResampledMetrics(label, as_scores(np.concatenate(parts)), codes, num_users)
            point[mask] = metrics.point()
            chunks = [metrics.compute(counts) for counts in drawn]
            replicated[mask] = {key: np.concatenate([chunk[key] for chunk in chunks]) for key in METRICS}

        def difference(key: str, mask: Mask) -> Interval:
            value = point[mask][key] - point[NOTHING][key]
            return percentile_interval(value, replicated[mask][key] - replicated[NOTHING][key])

        found = {
            key: {
                block: {way: difference(key, Mask(frozenset({block}), kept)) for way, kept in WAYS.items()}
                for block in Block
            }
            for key in METRICS
        }
        return Effects({key: point[NOTHING][key] for key in METRICS}, found)
