from __future__ import annotations

import pytest

from ctr_rec.bench import tables
from ctr_rec.bench.record import Record, emit_to
from ctr_rec.bench.synthetic import Shape
from ctr_rec.errors import ConfigError


def test_both_cases_are_emitted_and_the_goal_stands_on_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Shape(impressions=16, users=4, distinct=100, history=5)
    monkeypatch.setattr(tables, "Shape", lambda: small)
    records: list[Record] = []
    tables.run(emit_to(records.append), large=4000, small=1000, runs=1)
    assert [r.goal for r in records] == ["<= 1.2", None]
    for record in records:
        assert "100 distinct ids a step, 4,000 against 1,000 rows" in record.case
        assert record.value > 0
        assert record.min is not None
        assert record.max is not None
        assert record.min <= record.value <= record.max


def test_a_table_without_room_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "memory_per_rank", lambda device, ranks: 1 << 30)
    with pytest.raises(ConfigError, match=r"bench tables holds 20,000,000 rows of width 64 in memory: .*do not fit"):
        tables.run(emit_to(lambda record: None))
