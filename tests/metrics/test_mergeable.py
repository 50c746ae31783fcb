import math

import numpy as np
import pytest

from ctr_rec.errors import ConfigError, DataError
from ctr_rec.metrics.mergeable import METRIC_KEYS, ExactMetrics, all_metrics, undefined_reasons
from ctr_rec.metrics.probability import calibration, logloss, ne
from ctr_rec.metrics.ranking import auc, gauc


def _rows(seed: int, num_rows: int = 2003) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    score = np.round(generator.normal(size=num_rows), 2).astype(np.float32)
    return generator.integers(0, 2, num_rows), score, generator.integers(0, 90, num_rows)


def _state(rows: tuple[np.ndarray, ...], mine: np.ndarray, names: bool) -> ExactMetrics:
    state = ExactMetrics()
    label, score, group = (column[mine] for column in rows)
    for piece in np.array_split(np.arange(len(label)), 3):
        ids = np.array([f"ü{g}" for g in group[piece]]) if names else group[piece]
        state.update(label[piece], score[piece], ids)
    return state


def test_the_dict_agrees_with_each_metric() -> None:
    label, score, group = _rows(0)
    got = all_metrics(label, score, group)
    assert tuple(sorted(got)) == tuple(sorted(METRIC_KEYS))
    weighted = gauc(label, score, group)
    assert got["auc"] == auc(label, score)
    assert got["gauc"] == weighted.value
    assert got["gauc_unweighted"] == gauc(label, score, group, "none").value
    assert got["logloss"] == logloss(label, score)
    assert got["ne"] == ne(label, score).value
    assert got["calibration"] == got["pcoc"] == calibration(label, score)
    assert got["base_rate"] == label.mean()
    assert (got["groups_used"], got["groups_total"]) == (weighted.groups_used, weighted.groups_total)
    assert (got["impressions"], got["positives"]) == (2003, label.sum())
    assert got["rows_skipped"] == weighted.rows_skipped


@pytest.mark.parametrize("names", [False, True])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_merging_in_any_order_is_equal_to_the_bit(names: bool, order: tuple[int, ...]) -> None:
    rows = _rows(1)
    rank = np.random.default_rng(2).integers(0, 3, len(rows[0]))  # the fourth rank has nothing
    states = [_state(rows, rank == index, names) for index in range(4)]
    merged = ExactMetrics.merged([states[index] for index in order]).compute()
    assert merged == all_metrics(*rows)


@pytest.mark.parametrize("names", [False, True])
def test_a_state_survives_as_plain_arrays(names: bool) -> None:
    rows = _rows(3)
    state = _state(rows, rows[2] < 50, names)
    arrays = state.to_arrays()
    assert all(array.dtype.kind in "uif" for array in arrays.values())
    copies = {name: array.copy() for name, array in arrays.items()}
    assert ExactMetrics.from_arrays(copies).compute() == state.compute()


def test_gathered_ranks_of_which_one_is_empty_merge() -> None:
    rows = _rows(4)
    gathered = [_state(rows, rows[2] % 2 == 0, True), ExactMetrics(), _state(rows, rows[2] % 2 == 1, True)]
    states = [ExactMetrics.from_arrays(state.to_arrays()) for state in gathered]
    assert ExactMetrics.merged(states).compute() == all_metrics(*rows)


def test_merging_leaves_the_other_state_alone() -> None:
    one, other = ExactMetrics(), ExactMetrics()
    other.update([1], [0.5], [2])
    one.merge(other)
    one.update([0, 1], [0.1, 0.2], [2, 2])
    assert (len(one), len(other)) == (3, 1)


def test_a_state_does_not_watch_the_memory_it_was_given() -> None:
    label, score, group = np.array([0, 1], np.uint8), np.array([0.0, 1.0]), np.array([4, 4])
    state = ExactMetrics()
    state.update(label, score, group)
    before = state.compute()
    label[:], score[:], group[:] = 1, 7.0, [1, 2]
    assert state.compute() == before


def test_nothing_computes_to_nan_with_reasons() -> None:
    got = ExactMetrics().compute()
    assert got["impressions"] == got["groups_total"] == 0
    assert set(undefined_reasons(got)) == {"auc", "gauc", "gauc_unweighted", "logloss", "ne", "calibration", "pcoc"}
    assert set(undefined_reasons(got).values()) == {"no impressions"}


def test_one_class_leaves_logloss_defined() -> None:
    got = all_metrics([1, 1], [0.0, 0.0], [3, 3])
    assert got["logloss"] == pytest.approx(math.log(2))
    assert got["calibration"] == 0.5
    assert set(undefined_reasons(got)) == {"auc", "gauc", "gauc_unweighted", "ne"}


def test_probabilities_are_scored_as_such() -> None:
    label, probability, group = [0, 1, 1], [0.2, 0.7, 0.4], [1, 1, 2]
    state = ExactMetrics("probability")
    state.update(label, probability, group)
    assert state.compute()["logloss"] == logloss(label, probability, "probability")
    assert ExactMetrics.from_arrays(state.to_arrays(), "probability").compute() == state.compute()


def test_states_of_different_kinds_are_refused() -> None:
    whole, names = ExactMetrics(), ExactMetrics()
    whole.update([1], [0.0], [1])
    names.update([1], [0.0], ["a"])
    with pytest.raises(DataError, match="expected int64 ids, got large_string; give all batches and ranks"):
        whole.merge(names)
    with pytest.raises(DataError, match="expected large_string ids, got int64; give all batches and ranks"):
        names.update([1], [0.0], [1])
    with pytest.raises(DataError, match="score kind: expected 'logit', got 'probability'"):
        whole.merge(ExactMetrics("probability"))
    with pytest.raises(ConfigError, match="score kind: expected 'logit' or 'probability', got 'odds'"):
        ExactMetrics("odds")  # type: ignore[arg-type]


def test_a_bad_batch_adds_nothing() -> None:
    state = ExactMetrics()
    state.update([1], [0.0], [1])
    with pytest.raises(DataError, match="score: expected a number, got NaN at row 1"):
        state.update([1, 0], [0.0, np.nan], [1, 1])
    with pytest.raises(DataError, match="got label 2, score 2, group 1"):
        state.update([1, 0], [0.0, 0.0], [1])
    assert len(state) == 1
