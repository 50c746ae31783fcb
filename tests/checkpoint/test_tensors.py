from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ctr_rec.checkpoint.tensors import Contents, read_contents
from ctr_rec.errors import CheckpointError
from tests.checkpoint.stored import Marker, save_another_jobs, save_ours


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> tuple[Contents, dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("ours") / "step-00000002"
    whole = save_ours(folder)
    return read_contents(folder), whole


def test_tables_of_many_shards_read_as_one_with_their_state(ours: tuple[Contents, dict[str, np.ndarray]]) -> None:
    contents, whole = ours
    assert [t.name for t in contents.tables] == ["age", "genre", "item", "word"]
    assert max(len(t.weight.chunks) for t in contents.tables) == 2
    for table in contents.tables:
        assert np.array_equal(table.weight.whole().numpy(), whole[f"table/{table.name}"])
        assert list(table.states) == ["momentum1"]
        assert np.array_equal(table.states["momentum1"].whole().numpy(), whole[f"moment/{table.name}.momentum1"])
    assert contents.tables[2].parameter == "collection.embeddings.item.weight"
    assert sorted(contents.dense) == ["head.0.bias", "head.0.weight", "head.2.bias", "head.2.weight"]
    for name, tensor in contents.dense.items():
        assert np.array_equal(tensor.whole().numpy(), whole[f"dense/{name}"])
    assert len(contents.others) == 12
    step = next(t for n, t in contents.others.items() if n.endswith(".step"))
    assert step.whole().item() == 2
    assert contents.unread == ()


@pytest.mark.parametrize("rows", [1, 7, 50, 1000])
def test_slices_across_shards(ours: tuple[Contents, dict[str, np.ndarray]], rows: int) -> None:
    contents, whole = ours
    slices = list(contents.tables[2].weight.slices(rows))
    assert [first for first, _ in slices] == list(range(0, 101, rows))
    assert np.array_equal(torch.cat([part for _, part in slices]).numpy(), whole["table/item"])


def test_memory_stays_bounded_by_slices(ours: tuple[Contents, dict[str, np.ndarray]]) -> None:
    item = ours[0].tables[2]
    assert item.rows_per_slice == (1 << 25) // (8 * 4 + 4)


def test_another_jobs_checkpoint_is_read_and_nothing_in_it_is_run(tmp_path: Path) -> None:
    saved = save_another_jobs(tmp_path)
    contents = read_contents(tmp_path)
    (table,) = contents.tables
    assert (table.name, table.parameter) == ("shop", "sparse.ebc.embedding_bags.shop.weight")
    assert torch.equal(table.weight.whole(), saved[table.parameter])
    assert list(table.states) == ["sum"]
    assert list(contents.dense) == ["over.linear.weight"]
    assert contents.unread == ("extra",)
    assert not Marker.ran


def test_what_is_missing_or_cut_is_named(tmp_path: Path) -> None:
    save_another_jobs(tmp_path)
    data = next(tmp_path.glob("*.distcp"))
    (table,) = read_contents(tmp_path).tables
    content = data.read_bytes()
    data.write_bytes(content[: len(content) // 3])
    with pytest.raises(CheckpointError, match=r"distcp cannot be read for .*shop|copy it again"):
        [table.states["sum"].whole(), table.weight.whole(), read_contents(tmp_path).dense["over.linear.weight"].whole()]
    data.unlink()
    with pytest.raises(CheckpointError, match=r"distcp is missing: it holds a part of sparse.ebc"):
        table.weight.whole()
