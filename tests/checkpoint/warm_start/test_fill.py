from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ctr_rec.checkpoint.warm_start import rows
from ctr_rec.checkpoint.warm_start.fill import fill
from ctr_rec.checkpoint.warm_start.row_map import Counts, RowMap
from ctr_rec.errors import CheckpointError
from ctr_rec.sharding.tables import LocalShard
from tests.checkpoint.warm_start.test_rows import stored, table


def pairs(target: list[int], source: list[int], sources: list[int] | None, low: int, rows: int) -> RowMap:
    order = np.argsort(source, kind="stable")
    counted = None if sources is None else np.array(sources)[order]
    return RowMap(np.array(target)[order], np.array(source)[order], counted, np.ones(rows, bool), low, False, Counts())


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_pieces_of_columns_take_their_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(rows, "BLOCK_BYTES", block * 16)
    matrix = torch.randn(20, 4)
    shards = [LocalShard("t", (5, c), torch.zeros(6, w)) for c, w in ((0, 1), (1, 3))]
    target, source = [9, 5, 6, 8], [3, 17, 0, 3]
    fill(
        shards, pairs(target, source, None, 5, 6), table(tmp_path, matrix, [0, 9, 20], [0, 4]), torch.Tensor.float, "t"
    )
    found = torch.cat([s.weight for s in shards], dim=1)
    expected = torch.zeros(6, 4)
    expected[[4, 0, 1, 3]] = matrix[source]
    assert torch.equal(found, expected)


@pytest.mark.parametrize("block", [1, 2, 1000])
def test_means_are_alike_however_blocks_fall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    matrix = torch.randn(20, 4)
    target, source, sources = [1, 1, 1, 0, 2, 2], [5, 6, 19, 5, 7, 6], [3, 3, 3, 1, 2, 2]

    def filled() -> torch.Tensor:
        shard = LocalShard("t", (0, 0), torch.full((3, 4), 9.0))
        reader = table(tmp_path, matrix, [0, 20], [0, 4])
        fill([shard], pairs(target, source, sources, 0, 3), reader, torch.Tensor.float, "t")
        return shard.weight

    whole = filled()
    monkeypatch.setattr(rows, "BLOCK_BYTES", block * 16)
    assert torch.equal(filled(), whole)
    expected = torch.stack([matrix[5], matrix[[5, 6, 19]].mean(dim=0), matrix[[6, 7]].mean(dim=0)])
    torch.testing.assert_close(whole, expected, rtol=0, atol=1e-6)


def test_a_row_that_is_not_finite_is_named_also_in_the_state(tmp_path: Path) -> None:
    matrix = torch.ones(20, 4)
    matrix[7, 2] = float("inf")
    reader = table(tmp_path, matrix, [0, 9, 20], [0, 4])
    shard = LocalShard("t", (0, 0), torch.zeros(3, 4))
    fill([shard], pairs([0, 1], [6, 8], None, 0, 3), reader, torch.Tensor.float, "t")
    with pytest.raises(CheckpointError, match=r"table t: source row 7 \(for our row 1\) holds inf in .*0-0.bin; mend"):
        fill([shard], pairs([0, 1], [6, 7], None, 0, 3), reader, torch.Tensor.float, "t")


@pytest.mark.parametrize("source", [[3, 4, 5, 6], [3, 5, 6, 19]])
def test_rows_in_one_order_are_read_to_where_they_belong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: list[int]
) -> None:
    monkeypatch.setattr(rows, "BLOCK_BYTES", 2 * 16)
    monkeypatch.setattr("ctr_rec.checkpoint.warm_start.fill._copy", None)
    matrix, state = torch.randn(20, 4), torch.randn(20)
    reader = table(tmp_path, matrix, [0, 5, 20], [0, 4])
    shard = LocalShard("t", (10, 0), torch.zeros(6, 4))
    fill([shard], pairs([11, 12, 13, 14], source, None, 10, 6), reader, torch.Tensor.float, "t")
    assert torch.equal(shard.weight[1:5], matrix[source])
    assert shard.weight[[0, 5]].abs().sum() == 0
    flat = rows.StoredRows("m", (20,), [rows.Piece(0, 0, stored(tmp_path / "m.bin", state))], "here")
    moment = LocalShard("t", (10, 0), torch.zeros(6))
    fill([moment], pairs([11, 12, 13, 14], source, None, 10, 6), flat, torch.Tensor.float, "t")
    assert torch.equal(moment.weight[1:5], state[source])
