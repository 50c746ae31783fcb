"""DIN: our attention, model step and training loop against padded plain layers and against FuxiCTR's loop.

Legend: N impressions, L padded history length, P pairs, T event vectors, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from ctr_rec.batch.batch import Batch
from ctr_rec.batch.reader import Reader
from ctr_rec.bench import din_loop, fuxictr_din
from ctr_rec.bench.din_log import LAST, WIDTH, density, textbook_run, thin
from ctr_rec.bench.din_step import both_sides, difference
from ctr_rec.bench.padded_din import PaddedAttention
from ctr_rec.bench.reader import given_or_synthetic
from ctr_rec.bench.record import Emit, emit_rate, measure, num_threads
from ctr_rec.layers.target_attention import TargetAttention, TargetAttentionSettings
from ctr_rec.schema.manifest import load_manifest
from ctr_rec.schema.table import SparseSpec, sparse_spec
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.train.run import Run

NUM_IMPRESSIONS, NUM_EVENTS, CAP = 4096, 60_000, 100
# Density of the padded form, shortest and longest history drawn, and what the model step is asked to reach.
DENSITIES = ((0.68, 36, 100, ">= 2.5"), (0.25, 0, 50, ">= 5"))
WIDTHS = (16, 32)
# One pre-activation of 26 million within rounding of zero may fall on either side of ReLU: 3e-4 of the gradient.
SAME = 1e-3
SPARSE = 0.25
STEP_BATCHES, LOOP_BATCHES = 3, 20
LOOP_GOAL = ">= 3"
# Users and events of the log that stands in where none is given.
SYNTHETIC = (6040, 1_000_000)


@dataclass(frozen=True)
class Histories:
    """The same histories in both forms. Each is a window of one stream of events, as a user's last events are."""

    position_P: Tensor
    offsets_N1: Tensor
    padded_NL: Tensor
    mask_NL: Tensor

    @property
    def density(self) -> float:
        return self.mask_NL.float().mean().item()


def run(emit: Emit, log: Path | None = None, runs: int = 5) -> None:
    """Emit impressions/s of the attention alone, of the model step and of the whole training loop.

    log: whose histories step and loop read; without one they read a synthetic log of MovieLens-1M's size.
    """
    for threads in sorted({1, torch.get_num_threads()}):
        with num_threads(threads):
            for width in WIDTHS:
                for _, shortest, longest, goal in DENSITIES:
                    histories = draw(NUM_IMPRESSIONS, NUM_EVENTS, shortest, longest, seed=0)
                    _attention(emit, histories, width, threads, goal, runs)
    with given_or_synthetic(log, *SYNTHETIC) as folder, open_group("cpu") as group:
        settings = textbook_run(folder, LOOP_BATCHES, NUM_IMPRESSIONS)
        spec = sparse_spec(load_manifest(folder), settings.embedding)
        reader = Reader(settings.data, spec, "train", settings.train.seed)
        batches = list(islice(reader.batches(0), LOOP_BATCHES))
        for threads in sorted({1, torch.get_num_threads()}):
            with num_threads(threads):
                _steps(emit, settings, spec, group, batches[:STEP_BATCHES], runs)
        _loop(emit, settings, spec, group, batches, runs)


def _steps(emit: Emit, run: Run, spec: SparseSpec, group: Group, batches: list[Batch], runs: int) -> None:
    """The log's own histories, then the newest part of each, so that a quarter of the rectangle is filled."""
    whole = density(batches)
    for goal, share in ((">= 2.5", 1.0), (">= 5", min(1.0, SPARSE / whole))):
        thinned = [thin(batch, share) for batch in batches]
        what = "its own histories" if share == 1.0 else "the newest part of its histories"
        case = (
            f"model step, width {WIDTH}, {what} (cap {LAST} a channel), {density(thinned):.0%} dense, "
            f"threads {torch.get_num_threads()}"
        )
        sides = both_sides(run, spec, group, thinned)
        emit("din", case, "relative difference of logits and gradients", difference(sides), "", goal=f"<= {SAME}")
        timings = measure({name: side.steps for name, side in sides.items()}, runs=runs)
        rows = sum(batch.num_impressions for batch in thinned)
        emit_rate(emit, "din", case, "impressions/s, look-up to update", rows, timings["ours"], timings["padded"], goal)


def _loop(emit: Emit, run: Run, spec: SparseSpec, group: Group, batches: list[Batch], runs: int) -> None:
    """In turn, FuxiCTR's `fit` over the same rows and our trainer, each with its own loader."""
    rows = sum(batch.num_impressions for batch in batches)
    name = load_manifest(run.data.log).data_schema.name
    case = f"whole training loop, {rows:,} impressions of {name}, threads {torch.get_num_threads()}"
    metric = "impressions/s, reader, step and records"
    why = fuxictr_din.missing()
    if why is not None:
        speeds = [din_loop.impressions_per_second(run, group) for _ in range(runs)]
        emit("din", f"{case}; {why}", metric, median(speeds), "1/s", min=min(speeds), max=max(speeds), runs=runs)
        return
    ours, theirs = [], []
    with fuxictr_din.open_loop(batches, spec) as loop:
        for _ in range(runs):
            ours.append(din_loop.impressions_per_second(run, group))
            theirs.append(loop.impressions / loop.seconds())
    emit(
        "din",
        f"{case}, against FuxiCTR's",
        metric,
        median(ours),
        "1/s",
        baseline=median(theirs),
        ratio=median(ours) / median(theirs),
        goal=LOOP_GOAL,
        min=min(ours),
        max=max(ours),
        runs=runs,
    )


def draw(num_impressions: int, num_events: int, shortest: int, longest: int, seed: int) -> Histories:
    """Histories of a uniform length from `shortest` to `longest`, padded to CAP with event 0."""
    generator = torch.Generator().manual_seed(seed)
    lengths_N = torch.randint(shortest, longest + 1, (num_impressions,), generator=generator)
    start_N = torch.randint(0, num_events - longest, (num_impressions,), generator=generator)
    slot_L = torch.arange(CAP)
    mask_NL = slot_L < lengths_N[:, None]
    padded_NL = (start_N[:, None] + slot_L) * mask_NL
    offsets_N1 = torch.zeros(num_impressions + 1, dtype=torch.int64)
    torch.cumsum(lengths_N, dim=0, out=offsets_N1[1:])
    return Histories(padded_NL[mask_NL], offsets_N1, padded_NL, mask_NL)


def both_forms(histories: Histories, width: int) -> dict[str, Callable[[], list[Tensor]]]:
    """Forward and backward of both forms on the same weights; each returns output and gradients of the inputs."""
    torch.manual_seed(0)
    settings = TargetAttentionSettings()
    ours, padded = TargetAttention(width, settings, {}), PaddedAttention(width, settings)
    padded.take_weights(ours)
    target_ND = torch.randn(len(histories.mask_NL), width, requires_grad=True)
    event_TD = torch.randn(NUM_EVENTS, width, requires_grad=True)
    grad_ND = torch.randn_like(target_ND)

    def step(pooled_ND: Tensor, layer: nn.Module) -> list[Tensor]:
        leaves = [target_ND, event_TD, *layer.parameters()]
        gradients = torch.autograd.grad(pooled_ND, leaves, grad_ND)
        return [pooled_ND.detach(), *gradients]

    def jagged() -> list[Tensor]:
        return step(ours(target_ND, event_TD, histories.position_P, histories.offsets_N1, {}), ours)

    def plain() -> list[Tensor]:
        event_NLD = nn.functional.embedding(histories.padded_NL, event_TD)
        return step(padded(target_ND, event_NLD, histories.mask_NL), padded)

    return {"ours": jagged, "padded": plain}


def largest_difference(forms: dict[str, Callable[[], list[Tensor]]]) -> float:
    """Largest relative difference, in norm, of output and gradients: both sides must do the same work."""
    pairs = zip(forms["ours"](), forms["padded"](), strict=True)
    return max(((a - b).norm() / b.norm().clamp(min=1e-12)).item() for a, b in pairs)


def _attention(emit: Emit, histories: Histories, width: int, threads: int, goal: str, runs: int) -> None:
    forms = both_forms(histories, width)
    case = f"attention alone, width {width}, {histories.density:.0%} dense, threads {threads}"
    emit("din", case, "relative difference of outputs and gradients", largest_difference(forms), "", goal=f"<= {SAME}")
    timings = measure(forms, runs=runs)
    emit_rate(
        emit,
        "din",
        case,
        "impressions/s, forward and backward",
        len(histories.mask_NL),
        timings["ours"],
        timings["padded"],
        goal,
    )
