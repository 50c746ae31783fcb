import pytest

from ctr_rec.bench import gauc as bench
from ctr_rec.bench.record import Record, emit_to
from ctr_rec.metrics.ranking import gauc


def test_the_bench_emits_every_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "NUM_GROUPS", 500)
    monkeypatch.setattr(bench, "SMALL_GROUPS", 50)
    records: list[Record] = []
    bench.run(emit_to(records.append))
    seconds = [record for record in records if record.metric == "seconds"]
    differences = [record for record in records if record.metric.startswith("difference")]
    assert len(seconds) == 6
    assert sum(record.goal == "<= 0.3" for record in seconds) == 5
    assert [record.goal for record in differences] == ["<= 1e-12"] * 2
    assert all(record.goal_met() for record in differences)
    assert seconds[-1].ratio == pytest.approx((seconds[-1].baseline or 0) / seconds[-1].value)


@pytest.mark.parametrize("weight", ["impressions", "none"])
def test_the_loop_and_the_sort_agree(weight: str) -> None:
    rows = bench.skewed_rows(80, seed=3)
    fast = gauc(rows.label, rows.score, rows.group, weight).value  # type: ignore[arg-type]
    assert fast == pytest.approx(bench.sklearn_loop(rows, weight), abs=1e-12)  # type: ignore[arg-type]
