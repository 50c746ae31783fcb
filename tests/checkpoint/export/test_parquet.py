from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from ctr_rec.checkpoint import tensors
from ctr_rec.checkpoint.export.parquet import Parts, write_parquet
from ctr_rec.checkpoint.export.row_ids import RowIds
from ctr_rec.checkpoint.tensors import StoredTable, read_contents
from ctr_rec.errors import CheckpointError
from tests.checkpoint.export.reading import vectors

NAME = "model.x.embeddings.shop.weight"
WEIGHT = torch.randn(20, 3, generator=torch.Generator().manual_seed(2))


def _table(folder: Path, weight: torch.Tensor = WEIGHT) -> StoredTable:
    state = {NAME: weight, f"table_optimizer.{NAME[6:]}.shop.momentum1": weight.real.float().sum(dim=1)}
    save_distributed(state, checkpoint_id=folder, no_dist=True)
    (table,) = read_contents(folder).tables
    return table


# Row 3 has two ids, by a hash; rows 0, 5 and 19 have none.
ROWS = np.array([1, 2, 3, 3, 4, *range(6, 19)])
IDS = RowIds(pa.array([f"id-{n}" for n in range(len(ROWS))]), ROWS)


@pytest.mark.parametrize("slice_bytes", [1, 50, 1 << 25])
@pytest.mark.parametrize("limit", [None, 4, 18])
def test_a_line_per_id_and_the_rest_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slice_bytes: int, limit: int | None
) -> None:
    monkeypatch.setattr(tensors, "SLICE_BYTES", slice_bytes)
    said = write_parquet(_table(tmp_path / "dcp"), "shop", tmp_path / "out", IDS, limit)
    assert said == "18 lines with ids, 3 rows without"
    rest = tmp_path / "out" / "rows_without_id" / "shop" / ("rows.parquet" if limit is None else "rows")
    if limit is None:
        files = [tmp_path / "out" / "shop.parquet"]
    else:
        files = sorted((tmp_path / "out" / "shop").iterdir())
        assert [pq.read_metadata(f).num_rows for f in files] == ([4, 4, 4, 4, 2] if limit == 4 else [18])
    found = pa.concat_tables([pq.read_table(f) for f in files])
    assert found.schema.field("vector").type == pa.list_(pa.float32(), 3)
    assert found["id"].to_pylist() == IDS.ids.to_pylist()
    assert np.array_equal(found["row"].to_numpy(), ROWS)
    assert np.array_equal(vectors(found["vector"]), WEIGHT[torch.from_numpy(ROWS)].numpy())
    assert np.array_equal(vectors(found["state_momentum1"]), WEIGHT.sum(dim=1)[torch.from_numpy(ROWS)].numpy())
    others = pq.read_table(rest)
    assert others.column_names == ["row", "vector", "state_momentum1"]
    assert others["row"].to_pylist() == [0, 5, 19]
    assert np.array_equal(vectors(others["vector"]), WEIGHT[[0, 5, 19]].numpy())


def test_bfloat16_becomes_float32_and_other_kinds_are_refused(tmp_path: Path) -> None:
    half = WEIGHT.bfloat16()
    write_parquet(_table(tmp_path / "a", half), "shop", tmp_path / "out", None, None)
    found = pq.read_table(tmp_path / "out" / "shop.parquet")
    assert np.array_equal(vectors(found["vector"]), half.float().numpy())
    with pytest.raises(CheckpointError, match=r"torch.int64 of shape \(20, 3\); Parquet's column vector takes floats"):
        write_parquet(_table(tmp_path / "b", WEIGHT.long()), "shop", tmp_path / "out", None, None)


def test_no_file_without_a_line(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("row", pa.int64())])
    with Parts(tmp_path / "a", schema, None) as parts:
        parts.write({"row": pa.array([], pa.int64())})
    assert list(tmp_path.iterdir()) == []
