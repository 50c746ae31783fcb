"""The bench of whole users compares one model, on impressions that share nothing, and emits what it says."""

from __future__ import annotations

import pytest
import torch

from ctr_rec.bench import est_packed
from ctr_rec.bench.est_packed import difference, through_time, towers, trained
from ctr_rec.bench.est_requests import RECENT, Requests
from ctr_rec.bench.record import Record, emit_to
from ctr_rec.layers.behaviours import distinct_sequences

ASKED = Requests(1, 6, 5, 60, 10, content=16)


def test_impressions_share_no_behaviours_and_see_nothing_later() -> None:
    batch, _ = through_time(ASKED)
    assert batch.visible_end.tolist() == [10, 20, 30, 40, 50, 60]
    assert distinct_sequences(batch.histories[RECENT]).num_sequences == 6
    last = batch.histories[RECENT].values[batch.histories[RECENT].offsets[1:] - 1]
    assert last.equal(batch.visible_end - 1)


def test_both_forms_are_one_model_where_it_is_said() -> None:
    assert difference(ASKED) < 1e-5
    batch, embedded = through_time(ASKED)
    with torch.no_grad():
        packed, paper = (form.eval()(embedded, batch) for form in towers(ASKED, 2, True, True))
    assert float((packed - paper).norm() / paper.norm()) > 1e-5
    packed, paper = towers(ASKED, 2, csa=True, places=True)
    trained(packed, batch, embedded)()
    assert all(p.grad is not None for p in packed.parameters())


def test_every_figure_is_emitted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"IMPRESSIONS": 8, "EVENTS": 40, "TOKENS": 4, "WIDTH": 8, "RECENTS": (5, 20)}.items():
        monkeypatch.setattr(est_packed, name, value)
    records: list[Record] = []
    est_packed.emit_packed(emit_to(records.append), runs=1)
    assert [r.metric for r in records] == ["relative difference as one model", "GFLOPs", "impressions/s"] * 2
    assert all(r.goal_met() for r in records if r.goal)
    gflops = [r.ratio for r in records if r.metric == "GFLOPs"]
    assert gflops[1] > gflops[0] > 0.8, "the longer what is read, the more is shared"
