from __future__ import annotations

import pytest

from ctr_rec.bench import scaling
from ctr_rec.bench.record import Record, emit_to
from ctr_rec.errors import ConfigError


@pytest.mark.slow
def test_one_rank_and_two_are_measured_in_processes_of_their_own() -> None:
    records: list[Record] = []
    scaling.run(emit_to(records.append), runs=1, sizes=(16,))
    (record,) = records
    assert record.baseline is not None
    assert record.ratio == pytest.approx(record.value / record.baseline)
    assert record.goal is None
    assert "16 impressions per rank" in record.case


def test_the_goal_is_for_batches_large_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "_launch", lambda ranks, impressions: 100.0 * ranks)
    records: list[Record] = []
    scaling.run(emit_to(records.append))
    assert [r.goal for r in records] == [None, ">= 1.6", ">= 1.6"]
    assert all(r.ratio == 2.0 and r.goal_met() in (None, True) for r in records)


def test_a_rank_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "false")
    with pytest.raises(RuntimeError, match=r"a rank of the scaling bench ended with 1"):
        scaling._launch(2, 16)


def test_one_core_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    with pytest.raises(ConfigError, match="needs two cores"):
        scaling.run(emit_to(lambda record: None))
