"""DIN's attention: jagged and blocked against padded plain layers of the same widths, forward and backward.

Legend: N impressions, L padded history length, P pairs, T event vectors, D width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ctr_rec.bench.record import Emit, Timing, measure
from ctr_rec.layers.target_attention import TargetAttention, TargetAttentionSettings

NUM_IMPRESSIONS, NUM_EVENTS, CAP = 4096, 60_000, 100
# Density of the padded form, shortest and longest history drawn, and what the model step is asked to reach.
DENSITIES = ((0.68, 36, 100, ">= 2.5"), (0.25, 0, 50, ">= 5"))
WIDTHS = (16, 32)
SAME = 1e-4


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


class PaddedAttention(nn.Module):
    """DIN's activation unit as commonly written: [t, h, t - h, t * h] of every padded position through plain layers."""

    def __init__(self, width: int, settings: TargetAttentionSettings) -> None:
        super().__init__()
        widths = (4 * width, *settings.hidden)
        layers = [nn.Linear(before, after) for before, after in itertools.pairwise(widths)]
        self.hidden = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))
        self.out = nn.Linear(settings.hidden[-1], 1)

    def forward(self, target_ND: Tensor, event_NLD: Tensor, mask_NL: Tensor) -> Tensor:
        target_NLD = target_ND[:, None].expand_as(event_NLD)
        parts = [target_NLD, event_NLD, target_NLD - event_NLD, target_NLD * event_NLD]
        score_NL = self.out(self.hidden(torch.cat(parts, dim=-1))).squeeze(-1) * mask_NL
        return (score_NL[..., None] * event_NLD).sum(dim=1)

    def take_weights(self, other: TargetAttention) -> None:
        """Copy the jagged layer's weights, so that both compute one function."""
        mine = [layer for layer in (*self.hidden, self.out) if isinstance(layer, nn.Linear)]
        theirs = [layer for layer in (other.first, *other.hidden, other.out) if isinstance(layer, nn.Linear)]
        for to, source in zip(mine, theirs, strict=True):
            to.load_state_dict(source.state_dict())


def run(emit: Emit, log: Path | None = None, runs: int = 7) -> None:
    """Emit impressions/s of the attention alone, by width, density and threads. `log` is not used."""
    del log
    cores = torch.get_num_threads()
    for threads in sorted({1, cores}):
        with num_threads(threads):
            for width in WIDTHS:
                for _, shortest, longest, goal in DENSITIES:
                    histories = draw(NUM_IMPRESSIONS, NUM_EVENTS, shortest, longest, seed=0)
                    _attention(emit, histories, width, threads, goal, runs)


@contextmanager
def num_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
    timings: dict[str, Timing] = measure(forms, runs=runs)
    ours, padded = timings["ours"], timings["padded"]
    rows = len(histories.mask_NL)
    emit(
        "din",
        case,
        "impressions/s, forward and backward",
        rows / ours.median,
        "1/s",
        baseline=rows / padded.median,
        ratio=padded.median / ours.median,
        goal=goal,
        min=rows / ours.max,
        max=rows / ours.min,
        runs=ours.runs,
    )
