"""A file of vectors is one that `prepare` reads, and the JSON beside it is never another's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctr_rec.content.write import write_vectors
from ctr_rec.prepare.vectors import read_vectors
from ctr_rec.schema.content import ContentInfo, load_info

INFO = ContentInfo(method="m", model="x")


def test_it_is_a_fixed_size_list_of_unit_vectors(tmp_path: Path) -> None:
    file = tmp_path / "new" / "v.parquet"
    write_vectors(file, pa.array([7, 8]), np.array([[3.0, 4.0], [0.0, 0.0]]), INFO)
    assert pq.read_schema(file).field("vector").type == pa.list_(pa.float32(), 2)
    frame, _ = read_vectors(file)
    assert frame["item_id"].to_list() == [7, 8]
    assert np.allclose(frame["vector"].to_list(), [[0.6, 0.8], [0, 0]])
    assert load_info(file) == INFO
    assert sorted(p.name for p in file.parent.iterdir()) == ["v.json", "v.parquet"]


def test_a_stop_in_between_leaves_no_description_of_other_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "v.parquet"
    write_vectors(file, pa.array([7]), np.ones((1, 2)), INFO)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ctr_rec.content.write.write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        write_vectors(file, pa.array([7]), np.ones((1, 2)), INFO)
    assert load_info(file) is None
