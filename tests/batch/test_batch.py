"""The batch type: moves as a whole and counts its tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ctr_rec.batch.config import Channel, DataConfig, Packed
from ctr_rec.batch.reader import Reader
from ctr_rec.schema.table import EmbeddingSettings, sparse_spec
from tests.batch.logs import random_users, write_log
from tests.batch.naive import same


@pytest.mark.parametrize("channels", [{}, {"all": Channel(last=3)}])
def test_moving_keeps_everything(tmp_path: Path, channels: dict[str, Channel]) -> None:
    manifest = write_log(tmp_path, random_users(0))
    spec = sparse_spec(manifest, EmbeddingSettings(dim=4))
    config = DataConfig(log=str(tmp_path), label="liked", batches=Packed(tokens=99), channels=channels, workers=0)
    batch = next(Reader(config, spec, "train", 0).batches(0))
    assert same(batch, batch.to(torch.device("cpu")))
    meta = batch.to(torch.device("meta"))
    assert meta.items.vectors["content"].is_meta
    assert meta.user_bags["likes"].offsets.is_meta
    if channels:
        assert batch.num_tokens == int(batch.histories["all"].lengths().sum())
    else:
        assert batch.num_tokens == batch.num_events + batch.num_impressions
