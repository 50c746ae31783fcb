"""Made-up families: predictions whose GAUC is known to grow, and the points they make."""

from __future__ import annotations

import numpy as np

from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.metrics.mergeable import all_metrics
from ctr_rec.scale.curve import Named, Point

USERS, EACH = 80, 20


def predictions(signal: float, seed: int) -> Predictions:
    """Logits that are the label times `signal` plus noise; the larger the signal, the better."""
    labels = np.random.default_rng(0).integers(0, 2, USERS * EACH).astype(np.float32)
    noise = np.random.default_rng(seed + 1).normal(size=USERS * EACH).astype(np.float32)
    count = np.arange(USERS * EACH)
    return Predictions(
        impression=count,
        user=count // EACH,
        item=count,
        request_time=count,
        history_length=count,
        item_is_new=np.zeros(USERS * EACH, bool),
        label=labels,
        logit=(signal * labels + noise).astype(np.float32),
    )


def family(signals: list[float], seeds: int = 3) -> tuple[list[Named], list[Point]]:
    """Sizes of 1, 2, 4, ... million parameters and thousand FLOPs."""
    named, points = [], []
    for number, signal in enumerate(signals):
        runs = {f"{number}-{seed}": predictions(signal, 10 * number + seed) for seed in range(seeds)}
        found = [all_metrics(rows.label, rows.logit, rows.user) for rows in runs.values()]
        auc, gauc = (tuple(float(metrics[key]) for metrics in found) for key in ("auc", "gauc"))
        points.append(Point(f"tower.layers={number + 1}", 10**6 * 2**number, 1e3 * 2**number, auc, gauc))
        named.append(runs)
    return named, points
