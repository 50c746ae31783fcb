"""EST of whole users against the paper's form: a user's impressions through time, no two of which read the same.

A request's candidates share their user in either form. Impressions of different times share nothing in the paper's, and
one pass in the packed one (models/est/packed.py).

Legend: N impressions, D width of what the tower gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from ctr_rec.batch.batch import Batch, Jagged
from ctr_rec.bench.est_requests import RECENT, Requests, make_requests
from ctr_rec.bench.record import Emit, emit_rate, measure
from ctr_rec.layers.behaviours import BehaviourSettings
from ctr_rec.layers.context import ContextSettings
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.est.packed import PackedESTConfig
from ctr_rec.models.est.tower import ESTConfig, ESTTower
from ctr_rec.ops.jagged import stretches

# One user seen 256 times between 2,048 events; two layers, as a step in six takes minutes here.
IMPRESSIONS, EVENTS, TOKENS, LAYERS, WIDTH = 256, 2048, 20, 2, 64
RECENTS = (20, 50, 300)
NO_CONTEXT = ContextSettings(use_request=False, use_counters=False, use_time=False)
SAME = 1e-4


def emit_packed(emit: Emit, runs: int) -> None:
    """Part (e): forward and backward of both forms, for each length of the recent behaviours; nothing is retrieved."""
    for recent in RECENTS:
        case = f"{IMPRESSIONS} impressions of one user through time, {recent} recent behaviours, trained"
        asked = Requests(1, IMPRESSIONS, TOKENS, EVENTS, recent)
        batch, embedded = through_time(asked)
        emit("est", case, "relative difference as one model", difference(asked), "", goal=f"<= {SAME}")
        packed, paper = towers(asked, LAYERS, csa=True, places=True)
        flops = [form.flops(batch) / 1e9 for form in (packed, paper)]
        emit("est", case, "GFLOPs", flops[0], "", baseline=flops[1], ratio=flops[1] / flops[0])
        steps = {"packed": trained(packed, batch, embedded), "paper": trained(paper, batch, embedded)}
        timing = measure(steps, runs=runs)
        emit_rate(emit, "est", case, "impressions/s", IMPRESSIONS, timing["packed"], timing["paper"], None)


def through_time(asked: Requests) -> tuple[Batch, Embedded]:
    """The requests' one user, its candidates spread evenly over its events, each blind to what comes later."""
    batch, embedded = make_requests(asked)
    end_N = (torch.arange(asked.candidates) + 1) * asked.events // asked.candidates
    begin_N = (end_N - asked.recent).clamp(min=0)
    recent = Jagged(*stretches(begin_N, end_N - begin_N))
    return replace(batch, visible_end=end_N, history_length=end_N, histories={RECENT: recent}), embedded


def towers(asked: Requests, layers: int, csa: bool, places: bool) -> tuple[ESTTower, ESTTower]:
    """The packed form and the paper's, of the same weights. places: behaviours say their order and age."""
    behaviour = BehaviourSettings(use_order=places, use_age=places)
    tokens = TokenSettings(width=WIDTH, recent=RECENT, content="content", context=NO_CONTEXT, behaviour=behaviour)
    torch.manual_seed(0)
    paper = ESTConfig(layers=layers, tokens=tokens, csa=csa).build(asked.spec, (RECENT,))
    packed = PackedESTConfig(layers=layers, tokens=tokens, csa=csa, window=asked.recent).build(asked.spec, ())
    packed.load_state_dict(paper.state_dict())
    return packed, paper


def trained(form: ESTTower, batch: Batch, embedded: Embedded) -> Callable[[], None]:
    """One forward and backward pass per call."""

    def step() -> None:
        form.zero_grad()
        form(embedded, batch).sum().backward()

    return step


def difference(asked: Requests) -> float:
    """Between the forms where they are one model: one layer, no CSA, neither order nor age."""
    batch, embedded = through_time(asked)
    with torch.no_grad():
        packed_ND, paper_ND = (form.eval()(embedded, batch) for form in towers(asked, 1, False, False))
    return float((packed_ND - paper_ND).norm() / paper_ND.norm())
