from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ctr_rec.checkpoint.row_statistics import RowStatistics, row_statistics
from ctr_rec.checkpoint.tensors import read_contents
from tests.checkpoint.stored import save_another_jobs, save_ours


def _of(vectors: torch.Tensor, states: list[torch.Tensor], size: int) -> RowStatistics:
    found = RowStatistics()
    for first in range(0, len(vectors), size):
        found.add(first, vectors[first : first + size], [s[first : first + size] for s in states])
    return found


@pytest.mark.parametrize("size", [1, 13, 1000])
def test_slices_add_up_to_the_whole(size: int) -> None:
    vectors = torch.randn(500, 6, generator=torch.Generator().manual_seed(1)) * torch.logspace(-3, 2, 500)[:, None]
    vectors[3] = 0
    vectors[7, 2] = torch.nan
    norms = np.linalg.norm(vectors.double().numpy(), axis=1)
    found = _of(vectors, [torch.arange(500) % 5, torch.arange(500)[:, None] % 2], size)
    finite = np.delete(norms, 7)
    assert (found.rows, found.zero, found.not_finite) == (500, 1, 1)
    assert found.mean == pytest.approx(finite.mean())
    assert [row for _, row in found.largest] == [int(i) for i in np.argsort(-np.nan_to_num(norms))[:5]]
    assert found.dead == 50
    assert found.counts.sum() == 498
    for share in (0.01, 0.5, 0.99):
        assert found.quantile(share) == pytest.approx(np.quantile(finite, share, method="inverted_cdf"), rel=0.07)


def test_without_state_nobody_knows_which_rows_are_dead() -> None:
    assert _of(torch.ones(3, 2), [], 3).dead is None


def test_norms_beyond_the_bins_are_counted_in_the_outer_ones() -> None:
    found = _of(torch.tensor([[1e-20], [1e20], [0.0]]), [], 3)
    assert (found.counts[0], found.counts[-1], found.zero) == (1, 1, 1)
    assert found.quantile(0.1) == 0.0
    assert np.isnan(RowStatistics().quantile(0.5))


def test_a_stored_table_under_each_optimizer(tmp_path: Path) -> None:
    whole = save_ours(tmp_path / "adagrad", "adagrad")
    for table in read_contents(tmp_path / "adagrad").tables:
        moments = whole[f"moment/{table.name}.momentum1"]
        assert row_statistics(table).dead == (moments == 0).all(axis=1).sum()
    save_another_jobs(tmp_path / "other")
    assert row_statistics(read_contents(tmp_path / "other").tables[0]).dead == 10
