"""Batches made together are, to the bit, those made one by one, and nobody else writes to them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ctr_rec.batch import reader as module
from ctr_rec.batch.batch import Batch
from ctr_rec.batch.config import Channel, DataConfig, Packed
from ctr_rec.batch.reader import Reader
from ctr_rec.schema.table import EmbeddingSettings, sparse_spec
from tests.batch.logs import random_users, schema, write_log
from tests.batch.naive import _leaves, same


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log")
    write_log(path, random_users(1, count=30), log_schema=schema(action_delay=4))
    return path


def reader(folder: Path, rank: int = 0, world: int = 1, workers: int = 0, channels: bool = True) -> Reader:
    config = DataConfig(
        log=str(folder),
        label="liked",
        batches=Packed(tokens=40, context=9),
        channels={"liked": Channel(actions=(1,), last=3)} if channels else {},
        buffer_row_groups=3,
        workers=workers,
        prefetch=2,
    )
    manifest = module.load_manifest(str(folder))
    return Reader(config, sparse_spec(manifest, EmbeddingSettings(dim=4)), "train", 3, rank, world)


@pytest.mark.parametrize("world", [1, 7])
@pytest.mark.parametrize("channels", [True, False])
def test_how_many_are_made_together_changes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, world: int, channels: bool
) -> None:
    made = {}
    for lot in (1, 120, 10**6):
        monkeypatch.setattr(module, "LOT", lot)
        made[lot] = [list(reader(folder, r, world, channels=channels).batches(0)) for r in range(world)]
    assert sum(b.weight.sum() == 0 for rank in made[1] for b in rank) >= 3 * (world > 1)
    for lot in (120, 10**6):
        for mine, alone in zip(made[lot], made[1], strict=True):
            assert len(mine) == len(alone) > 10
            assert all(same(a, b) for a, b in zip(mine, alone, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_held_batches_stay_as_they_are(folder: Path, workers: int) -> None:
    chosen = reader(folder, workers=workers)
    held, before = [], []
    for epoch in range(3):
        for batch in chosen.batches(epoch):
            held.append(batch)
            before.append(_leaves(batch))
    assert [_leaves(b) for b in held] == before


def test_writing_to_a_batch_reaches_no_other(folder: Path) -> None:
    chosen = reader(folder)
    expected = list(chosen.batches(0))
    for k, batch in enumerate(chosen.batches(0)):
        assert same(batch, expected[k])
        _spoil(batch)
    assert all(same(a, b) for a, b in zip(chosen.batches(0), expected, strict=True))


def _spoil(value: object) -> None:
    if isinstance(value, torch.Tensor):
        assert value.is_contiguous()
        value.fill_(-7)
    elif isinstance(value, dict):
        for v in value.values():
            _spoil(v)
    elif isinstance(value, Batch) or hasattr(value, "__dataclass_fields__"):
        for v in vars(value).values():
            _spoil(v)
