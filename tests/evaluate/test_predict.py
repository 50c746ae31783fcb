from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ctr_rec.batch.batch import Batch
from ctr_rec.batch.config import DataConfig, Pointwise
from ctr_rec.batch.reader import Reader
from ctr_rec.evaluate.predict import predict
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.schema.manifest import load_manifest
from ctr_rec.schema.table import EmbeddingSettings, sparse_spec
from ctr_rec.sharding.group import Group, open_group
from tests.batch.logs import random_users, write_log
from tests.ranks import run_ranks


class _Sum(nn.Module):
    """A logit that tells impressions apart; remembers the mode it was called in."""

    def __init__(self) -> None:
        super().__init__()
        self.modes: list[tuple[bool, bool]] = []

    def forward(self, batch: Batch) -> torch.Tensor:
        self.modes.append((self.training, torch.is_grad_enabled()))
        return batch.impression_id.double() / 8


def _reader(log: Path, rank: int = 0, world: int = 1, impressions: int = 16) -> Reader:
    if not log.exists():
        write_log(log, random_users(seed=4, count=10))
    spec = sparse_spec(load_manifest(log), EmbeddingSettings())
    data = DataConfig(log=str(log), label="liked", batches=Pointwise(impressions=impressions), shuffle=False)
    return Reader(data, spec, "test", 0, rank, world)


def _on_ranks(group: Group, log: Path, impressions: int) -> Predictions:
    return predict(_Sum(), _reader(log, group.index, group.size, impressions), group, np.arange(39) % 3 == 0)


def test_every_impression_once_in_order_without_gradients(tmp_path: Path) -> None:
    reader, model, seen = _reader(tmp_path / "log"), _Sum().train(), []
    with open_group("cpu") as group:
        rows = predict(model, reader, group, np.arange(39) % 3 == 0, lambda done, total: seen.append((done, total)))
    assert len(rows) == reader.num_impressions()
    assert (np.diff(rows.impression) > 0).all()
    assert rows.logit == pytest.approx(rows.impression / 8)
    assert rows.logit.dtype == np.float32
    assert np.array_equal(rows.item_is_new, rows.item % 3 == 0)
    assert set(model.modes) == {(False, False)}
    assert model.training
    assert seen == [(k + 1, reader.num_batches()) for k in range(reader.num_batches())]


@pytest.mark.parametrize("impressions", [16, 1])
def test_ranks_gather_the_same_rows_also_when_some_have_none(tmp_path: Path, impressions: int) -> None:
    whole = _reader(tmp_path / "log")
    for rows in run_ranks(_on_ranks, 2, tmp_path / "log", impressions):
        assert len(rows) == whole.num_impressions()
        assert (np.diff(rows.impression) > 0).all()
        assert rows.logit == pytest.approx(rows.impression / 8)
