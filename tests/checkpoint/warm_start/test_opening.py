from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ctr_rec.checkpoint.manifest import Manifest
from ctr_rec.checkpoint.store import save
from ctr_rec.checkpoint.warm_start.config import WarmStart
from ctr_rec.checkpoint.warm_start.opening import kind_of, open_source, place
from ctr_rec.checkpoint.warm_start.source import Source
from ctr_rec.errors import CheckpointError
from ctr_rec.sharding.group import open_group
from tests.checkpoint.warm_start.cases import parameter, random_vectors, write_dcp, write_parquet, write_safetensors


def opened(path: Path, **settings: str) -> Source:
    with open_group("cpu") as group:
        return open_source(WarmStart.model_validate({"source": str(path), **settings}), group)


def test_each_kind_is_told_by_what_lies_there(tmp_path: Path) -> None:
    vectors = random_vectors(5, 4)
    write_dcp(tmp_path / "dcp", {parameter("t"): vectors})
    write_safetensors(tmp_path / "st" / "m.safetensors", {parameter("t"): vectors})
    write_parquet(tmp_path / "pq" / "t.parquet", range(5), vectors)
    write_parquet(tmp_path / "parts" / "t.parquet", range(5), vectors, 2)
    found = {name: opened(tmp_path / name) for name in ("dcp", "st", "pq", "parts")}
    assert {name: s.kind for name, s in found.items()} == {
        "dcp": "checkpoint",
        "st": "safetensors",
        "pq": "parquet",
        "parts": "parquet",
    }
    for source in found.values():
        table = source.find("t")
        assert table is not None
        assert torch.equal(table.vectors.row(3), vectors[3])
    assert opened(tmp_path / "st" / "m.safetensors").kind == "safetensors"
    assert opened(Path("file://" + str(tmp_path / "pq")).as_posix().replace("file:/", "file:///")).kind == "parquet"


def test_a_run_folder_offers_its_checkpoints(tmp_path: Path) -> None:
    with open_group("cpu") as group:
        for step in (1, 2):
            state = {"model": {"embeddings.t.weight": torch.full((3, 2), float(step))}}
            save(tmp_path / "checkpoints" / f"step-{step:08d}", state, Manifest(step=step), {}, group)
    found = opened(tmp_path, checkpoint="step-1").find("t")
    assert found is not None
    assert found.vectors.row(0).tolist() == [1, 1]
    last = opened(tmp_path, checkpoint="last")
    assert last.manifest is not None
    assert last.manifest.step == 2
    with pytest.raises(CheckpointError, match=r"has no best checkpoint: none was validated yet; use the last one"):
        opened(tmp_path)


def test_what_is_no_source_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"warm_start.source .*nowhere does not exist \(looked from"):
        kind_of(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"is no run, distributed checkpoint .* it holds: nothing"):
        kind_of(tmp_path)
    (tmp_path / "weights.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"it holds: weights.pt"):
        kind_of(tmp_path)
    with pytest.raises(CheckpointError, match=r"it holds: a file"):
        kind_of(tmp_path / "weights.pt")
    write_dcp(tmp_path / "dcp", {"model.head.weight": torch.ones(2)})
    with pytest.raises(CheckpointError, match=r"dcp has no table: expected tensors named .* it has model.head.weight"):
        opened(tmp_path / "dcp")


def test_a_store_without_a_plug_in() -> None:
    with pytest.raises(CheckpointError, match=r"s3://bucket/run: .* nothing here reads s3://; copy the source"):
        place("s3://bucket/run")
