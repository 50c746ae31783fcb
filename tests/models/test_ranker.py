"""Front, tower and head together on real tables: logits, gradients to every part, every filling."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ctr_rec.batch.batch import Batch, Level
from ctr_rec.models.grab.config import Views
from ctr_rec.models.grab.tower import GRABConfig
from ctr_rec.models.ranker import Ranker
from ctr_rec.models.tower import Filling, TowerConfig
from tests.models.streams import CHANNELS, SPEC, make_batch, random_log
from tests.models.test_no_leak import CASES


def _float(batch: Batch) -> Batch:
    def level(values: Level) -> Level:
        return replace(values, numbers={k: v.float() for k, v in values.numbers.items()})

    levels = {name: level(getattr(batch, name)) for name in ("users", "items", "events", "impressions")}
    return replace(batch, **levels)


def _is_partial(config: TowerConfig) -> bool:
    """Partial tokens read no profile."""
    return isinstance(config, GRABConfig) and config.views is Views.PARTIAL


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_scores_and_trains(config: TowerConfig) -> None:
    batch = _float(make_batch(random_log(1), config.filling))
    channels = tuple(CHANNELS) if config.filling is Filling.POINTWISE else ()
    ranker = Ranker(SPEC, config, channels, front_device="cpu")
    optimizer = torch.optim.Adam(ranker.parameters(), lr=0.01)
    first = None
    for _ in range(30):
        logits = ranker(batch)
        assert logits.shape == batch.label.shape
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.label)
        first = first if first is not None else loss.item()
        optimizer.zero_grad()
        loss.backward()
        idle = {name for name, p in ranker.named_parameters() if p.grad is None}
        assert idle == ({"front.bags.embedding_bags.user.weight"} if _is_partial(config) else set())
        optimizer.step()
    assert loss.item() < 0.8 * first
