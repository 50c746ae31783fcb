"""The small sizes that EST and the models beside it have in the cards."""

from __future__ import annotations

# A search with its settings whole, so that an arm can take it away.
SMALL = {
    "data.batches.impressions": "512",
    "data.channels.recent.last": "20",
    "tower.tokens.width": "32",
    "tower.tokens.retrieval": '{"channel": "lifelong", "most": 20, "feature": "content"}',
    "dense.lr": "4e-3",
    "validation.patience": "null",
}
