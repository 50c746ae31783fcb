"""Rows are distributed by the hash of their key, whole and in order."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from ctr_rec.errors import DataError
from ctr_rec.prepare.progress import Progress
from ctr_rec.prepare.scatter import scatter, sink
from ctr_rec.prepare.vocabulary import partition_of


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("text", [False, True])
def test_every_row_lands_in_its_partition_in_order(tmp_path: Path, parts: int, text: bool) -> None:
    ids = [str(k * 7 % 11) if text else k * 7 % 11 for k in range(70_000)]
    frame = pl.DataFrame({"user_id": ids, "row": range(70_000), "list": [[k % 2] for k in range(70_000)]})
    assert sink(frame.lazy(), tmp_path / "all", "events", "log") == 70_000
    paths = [tmp_path / str(p) for p in range(parts)]
    scatter(tmp_path / "all", "user_id", paths, Progress(quiet=True))
    assert not (tmp_path / "all").exists()
    frame = frame.with_columns(pl.Series("part", partition_of(frame["user_id"], parts)))
    for p, path in enumerate(paths):
        assert pl.read_parquet(path).equals(frame.filter(pl.col("part") == p).drop("part"))


def test_a_partition_may_be_empty(tmp_path: Path) -> None:
    sink(pl.DataFrame({"user_id": [1, 1]}).lazy(), tmp_path / "all", "events", "log")
    paths = [tmp_path / str(p) for p in range(4)]
    scatter(tmp_path / "all", "user_id", paths, Progress(quiet=True))
    assert sorted(pl.read_parquet(p).height for p in paths) == [0, 0, 0, 2]


def test_an_unreadable_source_is_named(tmp_path: Path) -> None:
    (tmp_path / "raw.csv").write_text("a\n1\nx\n")
    frame = pl.scan_csv(tmp_path / "raw.csv", schema={"a": pl.Int64})
    with pytest.raises(DataError, match=r"users of raw\.csv: cannot be read"):
        sink(frame, tmp_path / "all", "users", "raw.csv")
