"""The reader bench runs on a small log, and the log it makes for itself is one the reader accepts."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctr_rec.batch.config import DataConfig
from ctr_rec.batch.reader import Reader
from ctr_rec.bench import reader as bench
from ctr_rec.bench.record import Record, emit_to
from ctr_rec.schema.manifest import SPLITS
from ctr_rec.schema.table import EmbeddingSettings, sparse_spec


def test_its_own_log_is_valid(tmp_path: Path) -> None:
    manifest = bench.write_synthetic(tmp_path, users=50, events=2000, items=30)
    assert 1000 < manifest.events < 4000
    spec = sparse_spec(manifest, EmbeddingSettings())
    for split in SPLITS:
        reader = Reader(DataConfig(log=str(tmp_path), label="liked", workers=0), spec, split, 0)
        assert sum(b.num_impressions for b in reader.batches(0)) == reader.num_impressions()


def test_it_emits_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write_synthetic(tmp_path, users=50, events=2000, items=30)
    monkeypatch.setattr(bench, "STEPS", 1)
    found: list[Record] = []
    bench.run(emit_to(found.append), tmp_path)
    assert [(r.case.partition(",")[0], r.goal) for r in found] == [
        ("pointwise", None),
        ("pointwise", ">= 0.5"),
        ("pointwise", ">= 10"),
        ("packed", ">= 0.5"),
        ("packed", ">= 0.5"),
    ]
    assert all(r.value > 0 and r.baseline and r.ratio == pytest.approx(r.value / r.baseline, rel=0.01) for r in found)
