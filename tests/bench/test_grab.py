"""The GRAB bench compares like with like, and emits every figure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ctr_rec.batch.reader import Reader
from ctr_rec.bench import grab as bench
from ctr_rec.bench import grab_attention
from ctr_rec.bench.reader import write_synthetic
from ctr_rec.bench.record import Record, emit_to
from ctr_rec.models.grab.config import Behaviours
from ctr_rec.models.grab.tower import GRABConfig
from ctr_rec.models.ranker import Ranker
from ctr_rec.schema.manifest import load_manifest
from ctr_rec.schema.table import sparse_spec


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "TOKENS", 1200)
    monkeypatch.setattr(bench, "SYNTHETIC", (30, 1500))
    monkeypatch.setattr(bench, "CHUNKS", 2)
    for name, value in {"LONGEST": 24, "MEAN": 8, "WINDOW": 5, "TOKENS": (32, 64)}.items():
        monkeypatch.setattr(grab_attention, name, value)


@pytest.mark.usefixtures("small")
def test_the_bench_emits_every_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {"ours": 100.0, "dense": 700.0}
    monkeypatch.setattr(grab_attention, "peak_bytes", lambda form, _lengths, _window: peaks[form])
    records: list[Record] = []
    bench.run(emit_to(records.append), runs=1)
    goals = {record.metric: record.goal for record in records if record.goal}
    assert goals == {
        "largest difference of logits": "<= 0.0001",
        "impressions/s of training": ">= 10",
        "times the bare products' time": "<= 2.5",
        "relative difference of outputs and gradients": "<= 0.0001",
        "tokens/s, forward and backward": ">= 10",
        "peak memory of forward and backward": ">= 5",
        "exponent of tokens in seconds": "<= 1.1",
    }
    assert all(record.goal_met() for record in records if "difference" in record.metric)
    assert {record.ratio for record in records if "memory" in record.metric} == {7.0}
    threads = {int(record.case.rpartition(" ")[2]) for record in records[:-1]}
    assert threads == {1, torch.get_num_threads()}
    shares = [record.value for record in records if record.metric.startswith("share")]
    assert sum(shares) == pytest.approx(100 * len(threads))
    assert torch.cuda.is_available() or "needs CUDA: not measured" in records[-1].case


def test_the_padded_model_is_the_same_function(tmp_path: Path, small: None) -> None:
    """Windows cut what both see, users have many lengths, and a chunk may hold an impression without history."""
    write_synthetic(tmp_path, *bench.SYNTHETIC)
    run = bench.grab_run(tmp_path)
    config = GRABConfig(dropout=0.0, channels={"all": Behaviours(window=7)})
    spec = sparse_spec(load_manifest(tmp_path), run.embedding)
    batch = next(iter(Reader(run.data, spec, "train", 0).batches(0)))
    ranker = Ranker(spec, config, front_device="cpu")
    for name, parameter in ranker.named_parameters():
        if name.endswith(("position_PE", "time_BE", "action_AE")):
            torch.nn.init.normal_(parameter)
    chunks = bench.chosen_copies(batch, config.reach)
    assert bench.logit_difference(ranker, batch, chunks) < 1e-5
    wrong = [replace(copies, history_end_NL=copies.history_end_NL - 1) for copies in chunks]
    assert bench.logit_difference(ranker, batch, wrong) > 1e-4
