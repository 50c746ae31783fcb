from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ctr_rec.sharding.initial import WORDS_PER_SLICE, by_row, normal_rows


def test_a_row_does_not_depend_on_what_else_is_asked_for() -> None:
    whole = normal_rows(3, "item", np.arange(WORDS_PER_SLICE + 7), 5, 0.1)
    picked = np.array([WORDS_PER_SLICE + 6, 0, 13107, 13106, 5])
    assert np.array_equal(normal_rows(3, "item", picked, 5, 0.1), whole[picked])
    assert normal_rows(3, "item", np.arange(0), 5, 0.1).shape == (0, 5)


@pytest.mark.parametrize("other", [(4, "item"), (3, "items")])
def test_seeds_and_tables_have_streams_of_their_own(other: tuple[int, str]) -> None:
    rows = np.arange(500)
    ours, theirs = normal_rows(3, "item", rows, 8, 1.0), normal_rows(*other, rows, 8, 1.0)
    assert (ours == theirs).mean() < 0.01
    assert abs(np.corrcoef(ours.ravel(), theirs.ravel())[0, 1]) < 0.05


def test_values_are_normal_and_rows_and_columns_unrelated() -> None:
    x = normal_rows(11, "item", np.arange(20_000), 16, 0.02) / 0.02
    assert stats.kstest(x.ravel()[::3], "norm").pvalue > 1e-3
    assert abs(x.mean()) < 4 / np.sqrt(x.size)
    assert abs(x.var() - 1) < 4 * np.sqrt(2 / x.size)
    correlation = np.corrcoef(x.T) - np.eye(16)
    assert np.abs(correlation).max() < 5 / np.sqrt(len(x))
    assert abs(np.corrcoef(x[:-1].ravel(), x[1:].ravel())[0, 1]) < 5 / np.sqrt(x.size)
    assert len(np.unique(x[:, :8], axis=0)) == len(x)


def test_a_row_stands_for_itself_unless_it_is_told_otherwise() -> None:
    assert by_row("item", 3, 6).tolist() == [3, 4, 5]


def test_hashes_of_64_bits_are_numbers_of_rows() -> None:
    hashes = np.array([2**64 - 1, 2**63, 7], np.uint64)
    found = normal_rows(3, "item", hashes, 16, 1.0)
    assert len(np.unique(found, axis=0)) == 3
    assert np.array_equal(found[2:], normal_rows(3, "item", np.array([7]), 16, 1.0))


def test_values_stay_the_same_from_release_to_release() -> None:
    found = normal_rows(0, "item", np.array([0, 123_456_789]), 5, 1.0)
    expected = [
        [-0.4240615665912628, -0.7938423752784729, 0.291613906621933, -0.08296043425798416, 0.25650665163993835],
        [-0.6521673798561096, -0.7771278023719788, 1.243552803993225, -0.8972635865211487, 0.17105546593666077],
    ]
    assert np.array_equal(found, np.array(expected, dtype=np.float32))
