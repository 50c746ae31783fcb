"""EST's bench compares equal logits, and a request pays for its user once."""

from __future__ import annotations

import pytest
import torch

from ctr_rec.bench import est
from ctr_rec.bench.est_requests import Requests, make_requests
from ctr_rec.bench.record import Record, emit_to


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LAYERS": 2, "WIDTH": 8, "SHORT": 10, "EVENTS": 60, "LENGTHS": (10, 20)}.items():
        monkeypatch.setattr(est, name, value)
    monkeypatch.setattr(est, "TOKENS", {4: ">= 4"})


def test_apart_and_together_score_the_same_and_cost_differently() -> None:
    together, apart = Requests(1, 6, 5, 300, 250, content=16), Requests(6, 1, 5, 300, 250, content=16)
    model = est.tower(together, retrieves=True)
    one, six = est.scorer(together, model)(), est.scorer(apart, model)()
    torch.testing.assert_close(six, one[:1].expand(6, -1))
    assert (one[0] - one[1]).abs().max() > 1e-4, "candidates of a request differ"
    assert len(model.names) == 5
    cost = [model.flops(make_requests(asked)[0]) for asked in (together, apart)]
    assert cost[1] > 1.5 * cost[0]


def test_every_figure_is_emitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(est, "emit_attention", lambda _emit, runs: None)
    monkeypatch.setattr(est, "emit_retrieval", lambda _emit, runs: None)
    monkeypatch.setattr(est, "emit_packed", lambda _emit, runs: None)
    records: list[Record] = []
    est.run(emit_to(records.append), runs=1)
    goals = {record.metric: record.goal for record in records if record.goal}
    assert goals == {
        "relative difference of the first candidate": "<= 0.0001",
        "candidates/s": ">= 4",
        "exponent of length in GFLOPs": "<= 1.05",
        "exponent of length in seconds": "<= 1.1",
    }
    found = {record.metric: record for record in records}
    assert found["relative difference of the first candidate"].goal_met()
    assert found["exponent of length in CSA's GFLOPs"].value == pytest.approx(2.0)
    assert found["exponent of length in GFLOPs"].goal_met()
