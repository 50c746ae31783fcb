import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import log_loss

from ctr_rec.errors import ConfigError, DataError
from ctr_rec.metrics.probability import calibration, logloss, ne, reliability_bins


def _rows(seed: int, num_rows: int = 1001) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    logit = generator.normal(size=num_rows) * 3
    return generator.integers(0, 2, num_rows), logit, 1 / (1 + np.exp(-logit))


def test_logloss_is_that_of_scikit_learn() -> None:
    label, logit, probability = _rows(0)
    assert logloss(label, logit) == pytest.approx(log_loss(label, probability), rel=1e-13)
    assert logloss(label, probability, "probability") == pytest.approx(log_loss(label, probability), rel=1e-13)


def test_logloss_of_extreme_logits_is_exact() -> None:
    assert logloss([1], [-1000.0]) == 1000
    assert logloss([0], [1000.0]) == 1000
    assert logloss([1], [1000.0]) == 0
    assert logloss([1], [40.0]) == pytest.approx(math.exp(-40), rel=1e-12)
    assert logloss([1], [-np.inf]) == np.inf


def test_probabilities_of_zero_and_one_are_clipped_to_epsilon() -> None:
    edge = -math.log(np.finfo(np.float64).eps)
    assert logloss([1], [0.0], "probability") == pytest.approx(edge)
    assert logloss([0], [1.0], "probability") == pytest.approx(edge)


def test_ne_is_one_for_the_base_rate_and_states_it() -> None:
    label = np.array([1, 0, 0, 0])
    constant = np.full(4, math.log(0.25 / 0.75))
    result = ne(label, constant)
    assert result.value == pytest.approx(1, abs=1e-15)
    assert result.base_rate == 0.25
    assert result.reason is None


def test_ne_against_a_rate_from_elsewhere() -> None:
    label, logit, _ = _rows(1)
    rate = 0.3
    constant = np.full(len(label), math.log(rate / (1 - rate)))
    assert ne(label, constant, base_rate=rate).value == pytest.approx(1, abs=1e-12)
    expected = logloss(label, logit) / logloss(label, constant)
    assert ne(label, logit, base_rate=rate).value == pytest.approx(expected, rel=1e-12)
    assert ne([1, 1], [0.0, 0.0], base_rate=rate).value == pytest.approx(math.log(2) / -math.log(rate))


def test_calibration_is_mean_prediction_over_mean_label() -> None:
    label, logit, probability = _rows(2)
    assert calibration(label, logit) == pytest.approx(probability.mean() / label.mean(), rel=1e-13)
    assert calibration(label, probability, "probability") == pytest.approx(probability.mean() / label.mean(), rel=1e-13)
    assert calibration([1, 0], [-1e4, 1e4]) == 1


def test_sums_do_not_depend_on_the_order_of_rows() -> None:
    label, logit, _ = _rows(3, 9999)
    other = np.random.default_rng(4).permutation(9999)
    assert logloss(label, logit) == logloss(label[other], logit[other])
    assert calibration(label, logit) == calibration(label[other], logit[other])


def test_undefined_values_say_why() -> None:
    assert logloss([], []).reason == "no impressions"
    assert ne([], []).reason == "no impressions"
    assert ne([1, 1], [0.0, 0.0]).reason == "only positive labels: both are needed"
    assert calibration([], []).reason == "no impressions"
    assert calibration([0, 0], [0.0, 0.0]).reason == "no positive label: nothing to divide the predictions by"
    for value in (logloss([], []), ne([], []).value, ne([1], [0.0]).value, calibration([0], [0.0])):
        assert np.isnan(value)


def test_a_base_rate_outside_zero_and_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"base rate: expected a number inside \(0, 1\), got 1"):
        ne([0, 1], [0.0, 1.0], base_rate=1)


def test_logits_passed_as_probabilities_are_refused() -> None:
    with pytest.raises(DataError, match=r"got -2.0 at row 0 .* say kind='logit'"):
        logloss([0, 1], [-2.0, 0.5], "probability")


@pytest.mark.parametrize("edges", ["count", "width"])
def test_bins_hold_every_row_once_in_order(edges: str) -> None:
    label, logit, probability = _rows(5)
    bins = reliability_bins(label, logit, num_bins=7, edges=edges)  # type: ignore[arg-type]
    assert len(bins) == 7
    assert sum(b.count for b in bins) == len(label)
    assert sum(b.count * b.mean_label for b in bins) == pytest.approx(label.sum())
    assert sum(b.count * b.mean_prediction for b in bins) == pytest.approx(probability.sum())
    assert all(left.high < right.low for left, right in itertools.pairwise(bins))
    if edges == "count":
        assert max(b.count for b in bins) - min(b.count for b in bins) <= 1


def test_equal_predictions_stay_in_one_bin() -> None:
    bins = reliability_bins([0, 1, 0, 1], [0.0, 0.0, 0.0, 0.0], num_bins=4)
    assert [(b.count, b.mean_prediction, b.mean_label) for b in bins] == [(4, 0.5, 0.5)]


def test_bins_of_the_edges_and_of_nothing() -> None:
    bins = reliability_bins([0, 1], [0.0, 1.0], "probability", num_bins=10, edges="width")
    assert [(b.low, b.high) for b in bins] == [(0, 0), (1, 1)]
    assert reliability_bins([], []) == []


def test_impossible_bins_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected at least 1 bin, got 0"):
        reliability_bins([0], [0.0], num_bins=0)
    with pytest.raises(ConfigError, match="expected edges 'count' or 'width', got 'log'"):
        reliability_bins([0], [0.0], edges="log")  # type: ignore[arg-type]
