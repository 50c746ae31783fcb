from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctr_rec.checkpoint.manifest import Manifest
from ctr_rec.checkpoint.safe_reader import read_metadata
from ctr_rec.checkpoint.store import save
from ctr_rec.checkpoint.warm_start.dcp import open_checkpoint
from ctr_rec.checkpoint.warm_start.source import Source
from ctr_rec.errors import CheckpointError
from ctr_rec.sharding.group import Group, open_group
from tests.checkpoint.test_safe_reader import Payload
from tests.checkpoint.test_store import start, state_of, whole_state
from tests.checkpoint.warm_start.cases import parameter, random_vectors, write_dcp
from tests.ranks import run_ranks
from tests.sharding.test_parallelize import OTHERWISE, SPREAD, step


def opened(folder: Path, check: bool = True) -> Source:
    with open_group("cpu") as group:
        return open_checkpoint(folder, group, check)


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    return write_dcp(tmp_path / "c", {parameter("item"): random_vectors(50, 8), "step": {"words": [1, "two"]}})


def save_ours(group: Group, folder: Path, kind: str, sharding: dict[str, str]) -> dict[str, np.ndarray]:
    parallel, dense = start(group, kind, sharding)
    for k in range(3):
        step(parallel, dense, k)
    save(folder, state_of(parallel, dense), Manifest(step=3, train_range=(0, 7)), {}, group)
    return whole_state(parallel, dense)


@pytest.mark.parametrize(("kind", "sharding"), [("rowwise_adagrad", SPREAD), ("adagrad", OTHERWISE)])
def test_tables_and_state_of_a_sharded_checkpoint_are_read_whole(
    tmp_path: Path, kind: str, sharding: dict[str, str]
) -> None:
    whole = run_ranks(save_ours, 2, tmp_path / "c", kind, sharding)[0]
    found = opened(tmp_path / "c")
    assert found.manifest is not None
    assert found.manifest.train_range == (0, 7)
    for name in ("item", "genre", "age", "word"):
        table = found.find(name)
        assert table is not None
        for reader, expected in (
            (table.vectors, whole[f"table/{name}"]),
            (table.states["momentum1"], whole[f"moment/{name}.momentum1"]),
        ):
            blocks = [block.clone() for _, block in reader.blocks(np.arange(reader.rows))]
            assert np.array_equal(torch.cat(blocks).numpy().reshape(expected.shape), expected)


def test_other_entries_are_listed_and_never_read(foreign: Path) -> None:
    assert opened(foreign).unread == ("step.words",)


def test_code_in_the_metadata_is_refused_and_never_run(foreign: Path, tmp_path: Path) -> None:
    metadata = read_metadata(foreign)
    metadata.planner_data = {"x": Payload(tmp_path / "touched")}
    (foreign / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match=r"\.metadata names posix.system, which no checkpoint needs: refused"):
        opened(foreign)
    assert not (tmp_path / "touched").exists()


def replace_entry(folder: Path, name: str, content: bytes) -> None:
    """Points an entry of a checkpoint at other bytes."""
    metadata = read_metadata(folder)
    index = next(i for i in metadata.storage_data if i.fqn == name)
    info = metadata.storage_data[index]
    (folder / "evil.distcp").write_bytes(content)
    info.relative_path, info.offset, info.length = "evil.distcp", 0, len(content)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def saved(value: Any) -> bytes:
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


@pytest.mark.parametrize("pickled", [pickle.dumps, saved], ids=["pickle", "torch.save"])
def test_code_in_an_entry_is_refused_or_passed_over_and_never_run(foreign: Path, tmp_path: Path, pickled: Any) -> None:
    payload = pickled(Payload(tmp_path / "touched"))
    replace_entry(foreign, "step.words", payload)
    assert opened(foreign).find("item") is not None
    replace_entry(foreign, parameter("item"), payload)
    with pytest.raises(CheckpointError, match=r"evil.distcp: .*item.weight is not stored as a plain tensor .* refused"):
        opened(foreign)
    assert not (tmp_path / "touched").exists()


def test_truncated_and_missing_files(foreign: Path) -> None:
    data = next(foreign.glob("*.distcp"))
    content = data.read_bytes()
    data.write_bytes(content[:-1000])
    with pytest.raises(CheckpointError, match=rf"{data.name} is damaged: .* the file has {len(content) - 1000}; copy"):
        opened(foreign)
    data.unlink()
    with pytest.raises(CheckpointError, match=rf"{data.name} is missing: it holds a part of "):
        opened(foreign)
    (foreign / ".metadata").unlink()
    with pytest.raises(CheckpointError, match=r"\.metadata is missing"):
        opened(foreign)


def test_a_changed_byte_is_found_where_there_is_a_manifest(tmp_path: Path) -> None:
    with open_group("cpu") as group:
        save(tmp_path / "c", {"m": {"embeddings.t.weight": torch.ones(99, 4)}}, Manifest(step=1), {}, group)
    data = next((tmp_path / "c").glob("*.distcp"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=rf"{data.name} is damaged: expected CRC-32 \w+, got \w+"):
        opened(tmp_path / "c")
    opened(tmp_path / "c", check=False)


def test_an_index_that_contradicts_the_files(foreign: Path) -> None:
    replace_entry(foreign, parameter("item"), saved(torch.zeros(49, 8)))
    with pytest.raises(CheckpointError, match=re.escape("has shape (49, 8), the index says (50, 8); copy")):
        opened(foreign)
    metadata = read_metadata(foreign)
    metadata.storage_data = {i: info for i, info in metadata.storage_data.items() if i.fqn != parameter("item")}
    (foreign / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match=r"\.metadata does not say where .*item.weight at \(0, 0\) lies"):
        opened(foreign)
