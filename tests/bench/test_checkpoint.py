from __future__ import annotations

from ctr_rec.bench import checkpoint
from ctr_rec.bench.record import Record, emit_to


def test_both_ways_of_saving_are_measured_in_turn() -> None:
    records: list[Record] = []
    checkpoint.run(emit_to(records.append), rows=5_000, runs=2)
    by_metric = {r.metric: r for r in records}
    still = by_metric["training stands still, asynchronous"]
    assert still.runs == by_metric["training stands still, synchronous"].runs == 2
    assert still.baseline == by_metric["training stands still, synchronous"].value
    assert still.ratio is not None
    assert still.goal_met() is not None
    assert by_metric["the save in the background"].value > 0
    assert all(r.unit == "s" and r.min is not None and r.min > 0 for r in records)
