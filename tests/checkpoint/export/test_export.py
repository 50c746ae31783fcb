"""What is written for other tools is what the checkpoint holds, bit for bit, and appears whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ctr_rec.checkpoint.export import convert
from ctr_rec.errors import CheckpointError, ConfigError
from tests.checkpoint.export.reading import read_safetensors, vectors
from tests.checkpoint.stored import Marker, save_another_jobs, save_ours


@pytest.fixture(scope="module", params=["rowwise_adagrad", "adagrad", "sgd"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A checkpoint of two ranks, tables spread over them, and all of it whole."""
    folder = tmp_path_factory.mktemp("stored") / "step-00000002"
    return folder, save_ours(folder, request.param)


PARAMETERS = {
    "item": "collection.embeddings.item.weight",
    "genre": "collection.embeddings.genre.weight",
    "age": "bags.embedding_bags.age.weight",
    "word": "bags.embedding_bags.word.weight",
}


def test_safetensors_hold_every_bit_under_the_stated_names(stored: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, whole = stored
    convert(folder, "safetensors", tmp_path / "out", say=lambda sentence: None)
    expected: dict[str, np.ndarray] = {PARAMETERS[t]: whole[f"table/{t}"] for t in PARAMETERS}
    expected |= {
        f"table_optimizer.{PARAMETERS[t]}.momentum1": whole[f"moment/{t}.momentum1"]
        for t in PARAMETERS
        if f"moment/{t}.momentum1" in whole
    }
    expected |= {name.removeprefix("dense/"): v for name, v in whole.items() if name.startswith("dense/")}
    found = {k: v for f in (tmp_path / "out").glob("*.safetensors") for k, v in read_safetensors(f).items()}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(found[name], value), name


def test_parquet_holds_every_bit(stored: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, whole = stored
    said: list[str] = []
    convert(folder, "parquet", tmp_path / "out", say=said.append)
    assert "no prepared log at hand: rows are written without ids" in said[0]
    for table in PARAMETERS:
        found = pq.read_table(tmp_path / "out" / f"{table}.parquet")
        assert found["row"].to_pylist() == list(range(len(whole[f"table/{table}"])))
        assert np.array_equal(vectors(found["vector"]), whole[f"table/{table}"])
        moments = whole.get(f"moment/{table}.momentum1")
        assert found.column_names == ["row", "vector"] + ["state_momentum1"] * (moments is not None)
        if moments is not None:
            assert np.array_equal(vectors(found["state_momentum1"]), moments)
    dense = read_safetensors(tmp_path / "out" / "dense" / "dense.safetensors")
    assert all(np.array_equal(value, whole[f"dense/{name}"]) for name, value in dense.items())
    assert len(dense) == 4


def test_another_jobs_checkpoint(tmp_path: Path) -> None:
    saved = save_another_jobs(tmp_path / "dcp")
    convert(tmp_path / "dcp", "safetensors", tmp_path / "out", say=lambda sentence: None)
    name = "sparse.ebc.embedding_bags.shop.weight"
    found = read_safetensors(tmp_path / "out" / "shop.safetensors")
    assert np.array_equal(found[name], saved[name].numpy())
    assert np.array_equal(found[f"table_optimizer.{name}.sum"], saved[f"optim.state.{name}.sum"].numpy())
    told = json.loads((tmp_path / "out" / "source.json").read_text())
    assert told["tables"] == [{"name": "shop", "parameter": name, "rows": 50, "states": ["sum"]}]
    assert not Marker.ran


def test_what_is_cut_short_leaves_nothing(tmp_path: Path) -> None:
    save_another_jobs(tmp_path / "dcp")
    data = next((tmp_path / "dcp").glob("*.distcp"))
    data.write_bytes(data.read_bytes()[:1500])
    with pytest.raises(CheckpointError, match="copy it again"):
        convert(tmp_path / "dcp", "safetensors", tmp_path / "out", say=lambda sentence: None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dcp"]


def test_what_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--log has no effect on safetensors"):
        convert(tmp_path, "safetensors", tmp_path / "out", log="log")
    with pytest.raises(ConfigError, match=r"--rows-per-file has no effect on safetensors"):
        convert(tmp_path, "safetensors", tmp_path / "out", rows_per_file=5)
    (tmp_path / "config.json").touch()
    with pytest.raises(ConfigError, match=r"is not empty; name a new folder"):
        convert(tmp_path, "parquet", tmp_path)
    with pytest.raises(ConfigError, match=r"is a run; name one of its checkpoints"):
        convert(tmp_path, "parquet", tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"\.metadata is missing"):
        convert(tmp_path / "nothing", "parquet", tmp_path / "out")
