from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ctr_rec.bench import warm_start
from ctr_rec.bench.record import Record, emit_to
from ctr_rec.checkpoint.warm_start.dcp import open_checkpoint
from ctr_rec.sharding.group import open_group


@pytest.mark.slow
def test_memory_and_time_are_emitted_for_each_order() -> None:
    records: list[Record] = []
    warm_start.run(emit_to(records.append), rows=3000, ranks=(2,), runs=1)
    assert [r.goal for r in records] == [">= 1", ">= 0.25", ">= 0.25", None] * 2
    for record in records:
        assert "3,000 x 64" in record.case
        assert record.baseline is not None
        assert record.ratio is not None
        assert record.value > 0
    assert records[0].goal_met()


def test_the_source_is_a_table_in_four_shards(tmp_path: Path) -> None:
    warm_start.write_source(tmp_path, 1000)
    with open_group("cpu") as group:
        table = open_checkpoint(tmp_path / "source", group, check=True).find("item")
    assert table is not None
    assert (table.rows, table.vectors.width) == (1001, 64)
    assert len(list((tmp_path / "source").glob("*.distcp"))) == 4
    first, last = (table.vectors.row(row) for row in (0, 1000))
    assert table.states["momentum1"].row(1000).item() == last[0].square().item()
    assert not torch.equal(first, last)
    warm_start.evict(tmp_path)


def test_a_rank_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.executable", "false")
    with pytest.raises(RuntimeError, match=r"a rank of the warm start bench ended with 1"):
        warm_start._launch(tmp_path, 2, "same", 10, 1)


def test_peaks_are_of_this_process() -> None:
    before = warm_start.resident()
    warm_start.forget_peak()
    kept = torch.ones(30_000_000)
    assert warm_start.peak() >= before + 60_000_000
    del kept
