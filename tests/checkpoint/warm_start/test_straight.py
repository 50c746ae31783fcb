from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ctr_rec.checkpoint.warm_start.config import HashedIds, TableWarmStart, WarmStart
from ctr_rec.checkpoint.warm_start.id_rule import IdRule
from ctr_rec.checkpoint.warm_start.id_stream import vocabulary_stream
from ctr_rec.checkpoint.warm_start.opening import open_source
from ctr_rec.checkpoint.warm_start.straight import ids_of_rows, source_rows, straight_vector
from ctr_rec.checkpoint.warm_start.target import TargetTable
from ctr_rec.schema.hashing import hashed_rows
from ctr_rec.sharding.group import open_group
from tests.checkpoint.warm_start.cases import random_vectors, write_parquet, write_vocabulary


def test_ids_and_rows_are_looked_up_one_by_one(tmp_path: Path) -> None:
    path = write_vocabulary(tmp_path / "v.parquet", ["a", "b", "c"], [2, 1, 0], [3, 2, 1])
    table = TargetTable("item", 3, 4, 0.1, None, path)
    assert ids_of_rows(table, [0, 1]) == {1: ["b"]}
    assert source_rows(["a", "x"], IdRule("", vocabulary_stream(path, 0, 3))) == {"a": {2}}
    hashed = source_rows(["a", "x"], IdRule("", hashed=HashedIds(rows=5)))
    assert hashed == {i: {row} for i, row in zip("ax", hashed_rows("ax", 5).tolist(), strict=True)}


def test_vectors_change_their_width_as_the_warm_start_changes_it(tmp_path: Path) -> None:
    vectors = random_vectors(9, 3)
    write_parquet(tmp_path / "item.parquet", range(9), vectors)
    with open_group("cpu") as group:
        reader = open_source(WarmStart(source=str(tmp_path)), group).tables["item"].vectors
    assert torch.equal(straight_vector(reader, 4, 3, TableWarmStart()), vectors[4])
    padded = straight_vector(reader, 4, 5, TableWarmStart(dim="pad"))
    assert np.array_equal(padded.numpy(), np.pad(vectors[4].numpy(), (0, 2)))
    assert torch.equal(straight_vector(reader, 4, 2, TableWarmStart(dim="truncate")), vectors[4, :2])
    wider = straight_vector(reader, 4, 8, TableWarmStart(dim="project"))
    assert abs(float(wider.norm() - vectors[4].norm())) < 1e-6
