"""Residual k-means codes against a plain loop; the same for one seed; what cannot be coded is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctr_rec.errors import ConfigError, DataError
from ctr_rec.prepare.semantic_ids import SemanticIds, assign, fit, read_centres, write_centres

WANTED = SemanticIds(3, 5)


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(67, 6)).astype(np.float32)


def test_codes_are_those_of_a_plain_loop_and_each_level_leaves_less_over(vectors: np.ndarray) -> None:
    centres = fit(vectors, WANTED)
    codes = assign(vectors, centres)
    assert codes.shape == (67, 3)
    left = vectors.astype(np.float64)
    before = (left**2).sum()
    for level, level_centres in enumerate(centres):
        assert level_centres.shape == (5, 6)
        nearest = [min(range(5), key=lambda k: ((r - level_centres[k]) ** 2).sum()) for r in left]
        assert codes[:, level].tolist() == nearest
        left = left - level_centres[nearest]
        assert (left**2).sum() < before
        before = (left**2).sum()
        means = [left[codes[:, level] == k].mean(axis=0) for k in set(nearest)]
        assert np.abs(means).max() < 1e-6, "a centre is the mean of its items"


def test_one_seed_gives_the_same_centres_to_the_bit(vectors: np.ndarray) -> None:
    first, again, other = fit(vectors, WANTED), fit(vectors, WANTED), fit(vectors, WANTED, seed=7)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_features_have_tables_of_their_own() -> None:
    names = ["semantic_id_1", "semantic_id_2", "semantic_id_3", "semantic_id_1_2"]
    assert [f.name for f in WANTED.features()] == [f.table for f in WANTED.features()] == names
    assert [v.table for v in WANTED.vocabularies()] == names
    assert SemanticIds(1, 4).names() == ["semantic_id_1"]
    columns = SemanticIds(2, 5).columns(np.array([[4, 0], [1, 3], [0, 0]]), np.array([True, True, False]))
    assert {c.name: c.to_list() for c in columns} == {
        "semantic_id_1": ["4", "1", "none"],
        "semantic_id_2": ["0", "3", "none"],
        "semantic_id_1_2": ["4-0", "1-3", "none"],
    }


def test_words_that_name_no_codes_are_refused() -> None:
    assert SemanticIds.parse("3x256") == SemanticIds(3, 256)
    for text in ("3", "0x4", "3x0", "3x", "x3", "3x4x5", "3 x 4"):
        with pytest.raises(ConfigError, match=r"--semantic-ids: expected LEVELSxCENTRES such as 3x256, got"):
            SemanticIds.parse(text)


def test_fewer_vectors_than_centres_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"5 centres need as many different vectors .* there are 2; ask for fewer"):
        fit(np.eye(2)[[0, 1, 0, 1, 0, 1, 0]], WANTED)


def test_centres_are_kept_for_logs_that_grow(tmp_path: Path, vectors: np.ndarray) -> None:
    centres = fit(vectors, WANTED)
    write_centres(tmp_path, centres)
    kept = read_centres(tmp_path, WANTED, 6)
    assert all(np.array_equal(a, b) for a, b in zip(centres, kept, strict=True))
    for wanted, dim in ((SemanticIds(2, 5), 6), (SemanticIds(3, 4), 6), (WANTED, 5)):
        with pytest.raises(DataError, match=r"has semantic ids 3x5 of vectors of 6 numbers, asked for are .* the same"):
            read_centres(tmp_path, wanted, dim)
    with pytest.raises(DataError, match=r"has no semantic ids to grow from"):
        read_centres(tmp_path / "nowhere", WANTED, 6)
