"""What the report counts, and what is refused before anything is read or written. The maps are in test_row_map.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctr_rec.checkpoint.warm_start.apply import dry_run
from ctr_rec.checkpoint.warm_start.config import Buckets, HashedIds, TableWarmStart, VocabularyIds, WarmStart
from ctr_rec.checkpoint.warm_start.report import TableReport, WarmStartReport
from ctr_rec.errors import CheckpointError, ConfigError
from ctr_rec.schema.hashing import hashed_rows
from ctr_rec.sharding.group import open_group
from ctr_rec.sharding.tables import OptimizerKind
from tests.checkpoint.warm_start.cases import (
    alone,
    ids_of,
    log_manifest,
    random_vectors,
    targets,
    write_our_vocabularies,
    write_parquet,
    write_safetensors,
    write_vocabulary,
)


def dry(config: WarmStart, root: Path, **hash_rows: int) -> WarmStartReport:
    with open_group("cpu") as group:
        ours = targets(root / "ours", **hash_rows)
        return dry_run(config, ours, log_manifest(), OptimizerKind.ROWWISE_ADAGRAD, {"head.0.weight": (16, 32)}, group)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_our_vocabularies(tmp_path / "ours")
    return tmp_path


def test_a_dry_run_reports_the_same_and_reads_no_vector(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = ids_of("item", 150, seed=2)
    write_parquet(root / "source" / "item.parquet", ids, random_vectors(150, 8), 2, momentum1=np.ones(150, np.float32))
    config = WarmStart(source=str(root / "source"), trained_until=0)
    made = WarmStartReport.model_validate(alone(config, targets(root / "ours"))["report"])
    monkeypatch.setattr("ctr_rec.checkpoint.warm_start.parquet.ParquetRows.blocks", None)
    found = dry(config, root)
    assert found.dry_run
    assert [t.model_copy(update={"rms": None}) for t in made.tables] == list(found.tables)
    assert found.table("genre").left_alone == "not in the source"
    assert found.table("item").dropped == 150 - found.table("item").matched


def counted(
    root: Path, name: str, ids: list[str], rows: list[int], counts: list[int], **settings: object
) -> TableReport:
    write_safetensors(root / "m.safetensors", {f"a.embeddings.{name}.weight": random_vectors(max(rows) + 1, 8)})
    write_vocabulary(root / "v.parquet", ids, rows, counts)
    ids_by = VocabularyIds(path=str(root / "v.parquet"), out_of_vocabulary_row=0)
    own = TableWarmStart.model_validate({"ids": ids_by, **settings})
    return dry(WarmStart(source=str(root / "m.safetensors"), tables={name: own}), root).table(name)


def test_dropped_rows_are_weighed_by_the_sources_counts(root: Path) -> None:
    mine = ids_of("genre", 6, seed=1)
    found = counted(root, "genre", [mine[3], "other", "rare", mine[0]], [1, 2, 0, 4], [60, 30, 5, 10])
    # Rows 1 to 4, of which 3 has no id at all; row 0 is nobody's own.
    assert (found.source_rows, found.matched, found.dropped) == (5, 2, 2)
    assert found.dropped_share == pytest.approx(30 / 100)
    assert found.row_zero == "by initialiser"


def test_a_vocabulary_of_a_larger_table_and_buckets_outside(root: Path) -> None:
    mine = ids_of("genre", 6, seed=1)
    write_safetensors(root / "m.safetensors", {"a.embeddings.genre.weight": random_vectors(4, 8)})
    # Our own vocabulary, which is not searched but taken as it is.
    path = root / "ours" / "genre.parquet"
    own = TableWarmStart(ids=VocabularyIds(path=str(path)))
    with pytest.raises(CheckpointError, match=r"table genre: vocabulary .* has row 6, but table .* has 4 rows"):
        dry(WarmStart(source=str(root / "m.safetensors"), tables={"genre": own}), root)
    buckets = {"new_rows": "bucket", "buckets": Buckets(first=3, rows=2)}
    with pytest.raises(ConfigError, match=r"buckets: rows 3 to 4, but the source's table has 4 rows"):
        counted(root, "genre", [mine[0]], [3], [1], **buckets)


def test_what_another_width_needs(root: Path) -> None:
    write_safetensors(root / "m.safetensors", {"a.embeddings.genre.weight": random_vectors(9, 4).half()})
    own = {"ids": HashedIds(), "dim": "pad"}
    config = WarmStart(source=str(root / "m.safetensors"), tables={"genre": TableWarmStart.model_validate(own)})
    assert dry(config, root).table("genre").change == "padded 4 to 8, float16 to float32"
    config = WarmStart(source=str(root / "m.safetensors"), tables={"genre": TableWarmStart(ids=HashedIds())})
    with pytest.raises(ConfigError, match=r"table genre: the source's vectors have width 4, ours have 8"):
        dry(config, root)


def test_several_source_rows_unasked(root: Path) -> None:
    """Twelve ids of ours in five hashed rows, each with a row of its own in the source."""
    ids = ids_of("genre", 12, seed=4)
    write_vocabulary(root / "ours" / "genre.parquet", ids, hashed_rows(ids, 6).tolist(), range(12))
    write_parquet(root / "source" / "genre.parquet", ids, random_vectors(12, 8))
    config = WarmStart(source=str(root / "source"))
    with pytest.raises(CheckpointError, match=r"set warm_start.tables.genre.many_to_one to most_frequent or mean"):
        dry(config, root, genre=6)
    mean = config.model_copy(update={"tables": {"genre": TableWarmStart(many_to_one="mean")}})
    found = dry(mean, root, genre=6).table("genre")
    assert (found.matched, found.dropped) == (len(set(hashed_rows(ids, 6).tolist())), 0)
    one = config.model_copy(update={"tables": {"genre": TableWarmStart(many_to_one="most_frequent")}})
    assert dry(one, root, genre=6).table("genre").dropped == 12 - found.matched
