"""GRAB: packed training against padded, its attention against dense forms, a step against its products."""

from __future__ import annotations

import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ctr_rec.batch.batch import Batch
from ctr_rec.batch.config import DataConfig, Packed
from ctr_rec.batch.reader import Reader
from ctr_rec.bench import grab_attention
from ctr_rec.bench.padded_grab import Copies, copy_histories, padded_logits
from ctr_rec.bench.reader import given_or_synthetic
from ctr_rec.bench.record import Emit, measure, num_threads
from ctr_rec.bench.step_products import Products, bare, flops, shares
from ctr_rec.models.grab.tower import GRABConfig
from ctr_rec.models.ranker import Ranker
from ctr_rec.schema.manifest import load_manifest
from ctr_rec.schema.table import EmbeddingSettings, SparseSpec, sparse_spec
from ctr_rec.sharding.group import open_group
from ctr_rec.sharding.parallelize import parallelize
from ctr_rec.sharding.plan import ShardingConfig
from ctr_rec.sharding.tables import TableOptimizer
from ctr_rec.train.optimizers import DenseOptimizer
from ctr_rec.train.run import Run, TrainConfig
from ctr_rec.train.step import Stepper

# Users and events of the log that stands in where none is given: 165 events of history each, as in MovieLens-1M.
SYNTHETIC = (6040, 1_000_000)
TOKENS = 16384
CHUNK, CHUNKS, READ = 16, 8, 16
SAME = 1e-4


def run(emit: Emit, log: Path | None = None, runs: int = 5) -> None:
    """Emit the figures of Show 8 of GRAB's issue, in its order: (a), (e), then (b), (c), (d), (f).

    log: whose users (a) and (e) read; without one a synthetic log of MovieLens-1M's size.
    """
    with given_or_synthetic(log, *SYNTHETIC) as folder:
        for threads in sorted({1, torch.get_num_threads()}):
            with num_threads(threads):
                _figures(_with_threads(emit, threads), folder, runs)
    if not torch.cuda.is_available():
        case = "achieved TFLOP/s from true lengths beside FlexAttention and SDPA; needs CUDA: not measured"
        emit("grab", case, "TFLOP/s", float("nan"), "")


def _with_threads(emit: Emit, threads: int) -> Emit:
    """The same with the number of threads in every case: operations of some 20 microseconds gain nothing from two."""

    def emit_case(bench: str, case: str, *figure: Any, **more: Any) -> None:
        emit(bench, f"{case}, threads {threads}", *figure, **more)

    return emit_case


def _figures(emit: Emit, folder: Path, runs: int) -> None:
    with open_group("cpu") as group:
        run_ = grab_run(folder)
        spec = sparse_spec(load_manifest(folder), run_.embedding)
        batches, read = _read(run_, spec)
        parallel = parallelize(Ranker(spec, run_.tower), spec.tables, run_.sharding, group, 0)
        step = Stepper(parallel, run_.dense, group.size, torch.float32)
        batch = batches[-1]
        _padded(emit, spec, run_, step, batch, runs)
        _products(emit, step, batch, read, runs)
    grab_attention.emit_all(emit, runs)


def grab_run(log: Path) -> Run:
    """One channel, two layers, window 256, as the recipe `grab_one`. Without dropout, so that both sides agree."""
    schema = load_manifest(log).data_schema
    return Run(
        name="grab",
        data=DataConfig(log=str(log), label=schema.labels[0], batches=Packed(tokens=TOKENS, context=512)),
        tower=GRABConfig(dropout=0.0),
        embedding=EmbeddingSettings(dim=32),
        sharding=ShardingConfig(optimizer=TableOptimizer(lr=0.05)),
        dense=DenseOptimizer(lr=1e-3, clip=10.0),
        train=TrainConfig(),
    )


def _read(run_: Run, spec: SparseSpec) -> tuple[list[Batch], float]:
    """Some batches, and the seconds that each took after the first."""
    reader = Reader(run_.data, spec, "train", 0).batches(0)
    batches = [next(reader)]
    started = time.perf_counter()
    batches += islice(reader, READ)
    return batches, (time.perf_counter() - started) / max(1, len(batches) - 1)


def chosen_copies(batch: Batch, reach: int) -> list[Copies]:
    """Chunks of impressions, spread evenly over the batch and neighbours within a chunk; each padded for itself."""
    chunks = min(CHUNKS, max(1, batch.num_impressions // CHUNK))
    starts = torch.linspace(0, max(0, batch.num_impressions - CHUNK), chunks).long().tolist()
    last = batch.num_impressions
    return [copy_histories(batch, torch.arange(s, min(s + CHUNK, last)), reach) for s in starts]


def _padded(emit: Emit, spec: SparseSpec, run_: Run, step: Stepper, batch: Batch, runs: int) -> None:
    """The padded side runs a few chunks of the batch; tables and tokens are made once for all of them."""
    single = Ranker(spec, run_.tower, front_device="cpu")
    tower = run_.tower
    assert isinstance(tower, GRABConfig)
    chunks = chosen_copies(batch, tower.reach)
    chosen = torch.cat([copies.impression_N for copies in chunks])
    mean = float((batch.visible_end - batch.event_offsets[batch.impression_user]).float().mean())
    case = f"{batch.num_impressions:,} impressions of whole users packed, mean visible history {mean:.0f}"
    case += f", against single impressions, padded in chunks of {CHUNK}"
    emit("grab", case, "largest difference of logits", logit_difference(single, batch, chunks), "", goal=f"<= {SAME}")
    padded = single.train()

    def alone() -> None:
        padded.zero_grad()
        logit_N = padded_logits(padded, batch, chunks)
        torch.nn.functional.binary_cross_entropy_with_logits(logit_N, batch.label[chosen]).backward()

    timings = measure({"ours": lambda: step.step(batch, 1.0), "padded": alone}, runs=runs)
    ours, other = timings["ours"], timings["padded"]
    rows = batch.num_impressions
    emit(
        "grab",
        case,
        "impressions/s of training",
        rows / ours.median,
        "1/s",
        baseline=len(chosen) / other.median,
        ratio=(rows / ours.median) / (len(chosen) / other.median),
        goal=">= 10",
        min=rows / ours.max,
        max=rows / ours.min,
        runs=runs,
    )


def logit_difference(ranker: Ranker, batch: Batch, chunks: list[Copies]) -> float:
    chosen = torch.cat([copies.impression_N for copies in chunks])
    with torch.no_grad():
        return float((ranker(batch)[chosen] - padded_logits(ranker, batch, chunks)).abs().max())


def _products(emit: Emit, step: Stepper, batch: Batch, read: float, runs: int) -> None:
    with Products() as products:
        step.step(batch, 1.0)
    timings = measure({"step": lambda: step.step(batch, 1.0), "products": bare(products.shapes)}, runs=runs)
    whole, alone = timings["step"], timings["products"]
    case = f"one training step, {batch.num_impressions:,} impressions, {batch.num_events:,} events"
    case += f", {len(products.shapes):,} products, {flops(products.shapes) / 1e9:.1f} GFLOP"
    ratio = whole.median / alone.median
    what = "times the bare products' time"
    emit("grab", case, what, ratio, "", goal="<= 2.5", runs=runs)
    emit("grab", case, "the step", whole.median, "s", min=whole.min, max=whole.max, runs=runs)
    emit("grab", case, "its bare products", alone.median, "s", min=alone.min, max=alone.max, runs=runs)
    emit("grab", case, "reading a batch, beside the step where a core is free", read, "s")
    for name, share in shares(lambda: step.step(batch, 1.0)).items():
        emit("grab", case, f"share, profiled: {name}", 100 * share, "%")
