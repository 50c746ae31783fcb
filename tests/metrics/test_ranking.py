import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ctr_rec.errors import ConfigError, DataError
from ctr_rec.metrics.ranking import auc, gauc


def _rows(seed: int, num_rows: int, num_groups: int, decimals: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    score = np.round(generator.normal(size=num_rows), decimals)
    return generator.integers(0, 2, num_rows), score, generator.integers(0, num_groups, num_rows)


def _by_hand(label: np.ndarray, score: np.ndarray) -> float:
    wins = [(p > n) + (p == n) / 2 for p in score[label == 1] for n in score[label == 0]]
    return sum(wins) / len(wins)


def _loop(label: np.ndarray, score: np.ndarray, group: np.ndarray) -> list[tuple[float, int]]:
    found = []
    for user in np.unique(group):
        mine = group == user
        if 0 < label[mine].sum() < mine.sum():
            found.append((_by_hand(label[mine], score[mine]), int(mine.sum())))
    return found


@pytest.mark.parametrize("decimals", [0, 1, 12])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_auc_is_that_of_scikit_learn_with_ties(decimals: int, dtype: type) -> None:
    label, score, _ = _rows(0, 1001, 1, decimals)
    score = score.astype(dtype)
    assert auc(label, score) == pytest.approx(roc_auc_score(label, score), abs=1e-14)
    assert auc(label[:31], score[:31]) == pytest.approx(_by_hand(label[:31], score[:31]), abs=1e-15)


def test_auc_of_the_smallest_cases() -> None:
    assert auc([0, 1], [0.0, 1.0]) == 1
    assert auc([0, 1], [1.0, 0.0]) == 0
    assert auc([0, 1], [0.5, 0.5]) == 0.5
    assert auc([0, 1], [-0.0, 0.0]) == 0.5
    assert auc([0, 1, 1], [-np.inf, np.inf, -np.inf]) == 0.75


def test_auc_does_not_depend_on_the_order_of_rows() -> None:
    label, score, _ = _rows(1, 5001, 1, 2)
    other = np.random.default_rng(2).permutation(5001)
    assert auc(label, score) == auc(label[other], score[other])


@pytest.mark.parametrize(
    ("label", "reason"),
    [([], "no impressions"), ([1], "only positive labels"), ([0, 0], "only negative labels")],
)
def test_undefined_auc_is_nan_and_says_why(label: list[int], reason: str) -> None:
    value = auc(label, np.zeros(len(label)))
    assert np.isnan(value)
    assert value.reason is not None
    assert reason in value.reason


def test_bad_columns_reach_the_reader_with_their_row() -> None:
    with pytest.raises(DataError, match="got NaN at row 1"):
        auc([0, 1], [0.0, np.nan])
    with pytest.raises(DataError, match="got label 2, score 1"):
        auc([0, 1], [0.0])
    with pytest.raises(DataError, match="got NaN at row 1"):
        gauc([0, 1], [0.0, np.nan], [1, 1])
    with pytest.raises(DataError, match="got label 2, score 2, group 1"):
        gauc([0, 1], [0.0, 1.0], [1])


@pytest.mark.parametrize("decimals", [0, 2, 12])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_groups", [1, 7, 400])
def test_gauc_is_that_of_a_loop_over_users(decimals: int, dtype: type, num_groups: int) -> None:
    label, score, group = _rows(3, 801, num_groups, decimals)
    score = score.astype(dtype)
    expected = _loop(label, score, group)
    weighted, plain = gauc(label, score, group), gauc(label, score, group, "none")
    assert weighted.value == pytest.approx(sum(v * n for v, n in expected) / sum(n for _, n in expected), abs=1e-13)
    assert plain.value == pytest.approx(sum(v for v, _ in expected) / len(expected), abs=1e-13)
    assert weighted.groups_used == plain.groups_used == len(expected)
    assert weighted.groups_total == len(np.unique(group))
    assert weighted.rows_skipped == 801 - sum(n for _, n in expected)


def test_gauc_is_the_same_for_every_kind_of_id_and_row_order() -> None:
    label, score, group = _rows(4, 3001, 200, 1)
    names = np.array([f"user {g}" for g in group])
    other = np.random.default_rng(5).permutation(3001)
    expected = gauc(label, score, group)
    assert gauc(label, score, names) == expected
    assert gauc(label, score, group * 1_000_003_000_007) == expected
    assert gauc(label[other], score[other], names[other]) == expected


def test_scores_equal_in_float32_only_are_not_ties_in_float64() -> None:
    close = np.array([1.0, 1.0 + 1e-12])
    assert gauc([0, 1], close, [5, 5]).value == 1
    assert gauc([0, 1], close.astype(np.float32), [5, 5]).value == 0.5


def test_negative_and_signed_zero_scores_keep_their_order() -> None:
    score = np.array([-3.0, -1.0, -0.0, 0.0, 2.0, -np.inf, np.inf], np.float32)
    label = np.array([0, 1, 0, 1, 0, 0, 1])
    assert gauc(label, score, np.zeros(7, int)).value == pytest.approx(_by_hand(label, score), abs=1e-15)


def test_undefined_gauc_is_nan_and_says_why() -> None:
    result = gauc([0, 0, 1], [0.1, 0.2, 0.3], ["a", "a", "b"])
    assert np.isnan(result.value)
    assert result.reason == "no group has both labels: no pair to order inside a group"
    assert (result.groups_used, result.groups_total, result.rows_skipped) == (0, 2, 3)
    empty = gauc([], [], [])
    assert np.isnan(empty.value)
    assert empty.reason == "no impressions"


def test_an_unknown_weight_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected 'impressions' or 'none', got 'clicks'"):
        gauc([0, 1], [0.0, 1.0], [1, 1], "clicks")  # type: ignore[arg-type]
