"""The DIN bench compares like with like, and emits every figure."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from ctr_rec.bench import din as bench
from ctr_rec.bench.record import Record, emit_to


def test_both_forms_compute_one_function() -> None:
    histories = bench.draw(40, bench.NUM_EVENTS, 0, 50, seed=1)
    assert bench.largest_difference(bench.both_forms(histories, 8)) < bench.SAME


@pytest.mark.parametrize(("density", "shortest", "longest", "_goal"), bench.DENSITIES)
def test_histories_have_the_density_their_case_names(density: float, shortest: int, longest: int, _goal: str) -> None:
    histories = bench.draw(2000, bench.NUM_EVENTS, shortest, longest, seed=1)
    assert histories.density == pytest.approx(density, abs=0.01)
    assert histories.padded_NL.shape == (2000, bench.CAP)
    assert len(histories.position_P) == histories.offsets_N1[-1] == histories.mask_NL.sum()


@pytest.mark.parametrize("peer", [None, "fuxictr is not installed"])
def test_the_bench_emits_every_figure(monkeypatch: pytest.MonkeyPatch, peer: str | None) -> None:
    monkeypatch.setattr(bench, "NUM_IMPRESSIONS", 100)
    monkeypatch.setattr(bench, "NUM_EVENTS", 200)
    monkeypatch.setattr(bench, "SYNTHETIC", (60, 3000))
    monkeypatch.setattr(bench, "STEP_BATCHES", 2)
    monkeypatch.setattr(bench, "LOOP_BATCHES", 2)
    monkeypatch.setattr(bench.fuxictr_din, "missing", lambda: peer)
    monkeypatch.setattr(bench.fuxictr_din, "open_loop", lambda _batches, _spec: nullcontext(FixedLoop()))
    records: list[Record] = []
    bench.run(emit_to(records.append), runs=1)
    speeds = [record for record in records if record.metric.startswith("impressions/s") and record.goal]
    assert {record.goal for record in speeds} == {">= 2.5", ">= 5"} | ({">= 3"} if peer is None else set())
    assert all(record.ratio == pytest.approx(record.value / (record.baseline or 0)) for record in speeds)
    assert all(record.goal_met() for record in records if "difference" in record.metric)
    loop = records[-1]
    assert loop.case.startswith("whole training loop")
    assert loop.value > 0
    assert loop.baseline == (100.0 if peer is None else None)
    assert peer is None or peer in loop.case


class FixedLoop:
    """Stands in for FuxiCTR's loop: 100 impressions in a second."""

    impressions = 100

    def seconds(self) -> float:
        return 1.0
