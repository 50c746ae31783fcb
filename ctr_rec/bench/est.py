"""EST: a request of 60 candidates against 60 impressions, cost against length, attention, retrieval, whole users."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ctr_rec.bench.est_ops import emit_attention, emit_retrieval
from ctr_rec.bench.est_packed import emit_packed
from ctr_rec.bench.est_requests import LIFELONG, RECENT, Requests, make_requests
from ctr_rec.bench.grab_attention import exponent
from ctr_rec.bench.record import Emit, emit_rate, measure
from ctr_rec.layers.behaviours import Sequences, distinct_sequences
from ctr_rec.layers.context import ContextSettings
from ctr_rec.layers.retrieval import RetrievalSettings
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.est.tower import ESTConfig, ESTTower
from ctr_rec.ops.content_neighbours import neighbours

# The paper's sizes (arXiv 2602.10811, section 6.1): six layers of width 128, 300 behaviours and 50 retrieved ones.
LAYERS, WIDTH, SHORT, EVENTS, CANDIDATES = 6, 128, 300, 5000, 60
TOKENS = {8: ">= 4", 20: ">= 4", 100: None}
LENGTHS = (300, 600, 1200, 2500, 5000)
NO_CONTEXT = ContextSettings(use_request=False, use_counters=False, use_time=False)
SAME = 1e-4


def run(emit: Emit, log: Path | None = None, runs: int = 5) -> None:
    """Emit EST's figures: (a) sharing, (b) length, (c) attention, (d) retrieval, (e) whole users. `log` is not used."""
    del log
    for tokens, goal in TOKENS.items():
        emit_sharing(emit, tokens, goal, runs)
    emit_lengths(emit, LENGTHS, runs)
    emit_attention(emit, runs)
    emit_retrieval(emit, runs)
    emit_packed(emit, runs)
    if not torch.cuda.is_available():
        emit(
            "est", "the same on a GPU, with model FLOPs utilisation; needs CUDA: not measured", "MFU", float("nan"), ""
        )


def tower(asked: Requests, retrieves: bool) -> ESTTower:
    """EST for these requests, in evaluation mode."""
    torch.manual_seed(0)
    retrieval = RetrievalSettings(channel=LIFELONG) if retrieves else None
    tokens = TokenSettings(width=WIDTH, recent=RECENT, content="content", retrieval=retrieval, context=NO_CONTEXT)
    return ESTConfig(layers=LAYERS, tokens=tokens).build(asked.spec, (RECENT, LIFELONG)).eval()


def scorer(asked: Requests, model: ESTTower) -> Callable[[], Tensor]:
    """Scores the whole batch of these requests once per call."""
    batch, embedded = make_requests(asked)

    def score() -> Tensor:
        with torch.no_grad():
            return model(embedded, batch)

    return score


def emit_sharing(
    emit: Emit, tokens: int, goal: str | None, runs: int, short: int = SHORT, events: int = EVENTS
) -> None:
    """Part (a): one request of 60 candidates against 60 users with one candidate each, of equal content."""
    forms = {"request": (1, CANDIDATES), "apart": (CANDIDATES, 1)}
    asked = {name: Requests(users, each, tokens, EVENTS, SHORT) for name, (users, each) in forms.items()}
    model = tower(asked["request"], retrieves=True)
    score = {name: scorer(one, model) for name, one in asked.items()}
    case = f"a request of {CANDIDATES} candidates against {CANDIDATES} impressions, {tokens} feature tokens"
    emit("est", case, "relative difference of the first candidate", _difference(score), "", goal=f"<= {SAME}")
    flops = {name: model.flops(make_requests(one)[0]) for name, one in asked.items()}
    ratio = flops["apart"] / flops["request"]
    emit("est", case, "GFLOPs", flops["request"] / 1e9, "", baseline=flops["apart"] / 1e9, ratio=ratio)
    timing = measure(score, runs=runs)
    emit_rate(emit, "est", case, "candidates/s", CANDIDATES, timing["request"], timing["apart"], goal)


def _difference(score: dict[str, Callable[[], Tensor]]) -> float:
    request, apart = score["request"]()[0], score["apart"]()[0]
    return float((request - apart).norm() / apart.norm())


def emit_lengths(emit: Emit, lengths: Sequence[int], runs: int, tokens: int = 20) -> None:
    """Part (b): one request with all behaviours in B_u; CSA's similarity matrix, once per sequence, apart."""
    flops, compared, seconds, matrix = [], [], [], []
    for length in lengths:
        asked = Requests(1, CANDIDATES, tokens, length, length)
        model = tower(asked, retrieves=False)
        batch, _ = make_requests(asked)
        content = model.content_flops(batch)["csa"]
        sequences = distinct_sequences(batch.histories[RECENT])
        near = partial(_neighbours, batch.items.vectors["content"], batch.event_item, sequences)
        timing = measure({"whole": scorer(asked, model), "matrix": near}, runs=runs)
        case = f"{CANDIDATES} candidates, {length:,} behaviours"
        flops.append((length, float(model.flops(batch))))
        compared.append((length, float(content)))
        matrix.append((length, timing["matrix"].median))
        # On a few behaviours noise can make the part longer than the whole.
        rest = max(timing["whole"].median - timing["matrix"].median, 1e-6)
        seconds.append((length, rest))
        emit("est", case, "GFLOPs without CSA's matrix", flops[-1][1] / 1e9, "")
        emit("est", case, "GFLOPs of CSA's matrix", content / 1e9, "")
        emit("est", case, "seconds without CSA's matrix", rest, "s", runs=runs)
        emit("est", case, "seconds of CSA's neighbours", timing["matrix"].median, "s", runs=runs)
    case = f"{lengths[0]:,} to {lengths[-1]:,} behaviours"
    emit("est", case, "exponent of length in GFLOPs", exponent(flops), "", goal="<= 1.05")
    emit("est", case, "exponent of length in seconds", exponent(seconds), "", goal="<= 1.1", runs=runs)
    emit("est", case, "exponent of length in CSA's GFLOPs", exponent(compared), "")
    emit("est", case, "exponent of length in CSA's seconds", exponent(matrix), "", runs=runs)


def _neighbours(content_MC: Tensor, event_item_T: Tensor, sequences: Sequences) -> object:
    return neighbours(content_MC, event_item_T[sequences.position_P], sequences.offsets_S1, 5)
