import numpy as np
import pytest

from ctr_rec.errors import ConfigError, DataError
from ctr_rec.metrics import bootstrap
from ctr_rec.metrics.bootstrap import (
    RESAMPLED_KEYS,
    ResampledMetrics,
    metric_intervals,
    percentile_interval,
    used_codes,
    user_counts,
)
from ctr_rec.metrics.inputs import as_labels, as_scores
from ctr_rec.metrics.mergeable import all_metrics


def _rows(seed: int, num_rows: int, num_users: int, decimals: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    user = generator.integers(0, num_users, num_rows)
    taste = generator.normal(size=num_users)[user]
    label = (generator.random(num_rows) < 1 / (1 + np.exp(-taste))).astype(int)
    return label, np.round(taste + generator.normal(size=num_rows), decimals), user


@pytest.mark.parametrize("decimals", [0, 12])
def test_counts_are_the_same_as_repeating_the_users_rows(decimals: int) -> None:
    label, score, user = _rows(0, 301, 23, decimals)
    metrics = ResampledMetrics(as_labels(label), as_scores(score), user, 23)
    counts = np.concatenate(list(user_counts(23, 5, seed=1)))
    got = metrics.compute(counts)
    for replicate in range(5):
        times = counts[replicate, user]
        # A user drawn twice is two groups of equal AUC, so repeating the rows inside one group changes no GAUC.
        repeated = [np.repeat(column, times) for column in (label, score, user)]
        expected = all_metrics(*repeated)
        for key in RESAMPLED_KEYS:
            assert got[key][replicate] == pytest.approx(expected[key], abs=1e-12), key


def test_the_point_is_the_exact_metric() -> None:
    label, score, user = _rows(2, 500, 40, 1)
    point = ResampledMetrics(as_labels(label), as_scores(score), user, 40).point()
    expected = all_metrics(label, score, user)
    for key in RESAMPLED_KEYS:
        assert point[key] == pytest.approx(expected[key], abs=1e-13)


def test_a_replicate_without_a_class_is_nan() -> None:
    metrics = ResampledMetrics(as_labels([0, 1]), as_scores([0.0, 1.0]), np.array([0, 1]), 2)
    got = metrics.compute(np.array([[2, 0], [1, 1]]))
    assert np.isnan([got["auc"][0], got["ne"][0], got["gauc"][0], got["gauc"][1]]).all()
    assert got["auc"][1] == 1
    assert got["logloss"][0] == pytest.approx(np.log(2))


def test_draws_do_not_depend_on_the_chunking(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(user_counts(50, 130, seed=3)))
    monkeypatch.setattr(bootstrap, "_CHUNK_ELEMENTS", 7 * 50)
    chunks = list(user_counts(50, 130, seed=3))
    assert len(chunks) == 19
    assert (np.concatenate(chunks) == whole).all()
    assert whole.shape == (130, 50)
    assert (whole.sum(axis=1) == 50).all()
    assert (whole != np.concatenate(list(user_counts(50, 130, seed=4)))).any()


def test_codes_have_no_gaps() -> None:
    codes, num_users = used_codes([10, 14, 10, 11])
    assert codes.tolist() == [0, 2, 0, 1]
    assert num_users == 3
    assert used_codes([])[1] == 0


def test_intervals_widen_when_users_cluster() -> None:
    generator = np.random.default_rng(5)
    user = np.repeat(np.arange(60), 30)
    label = (generator.random(60) < 0.5).astype(int)[user]
    score = label + generator.normal(size=60)[user]
    label = np.where(generator.random(len(user)) < 0.1, 1 - label, label)
    clustered = metric_intervals(label, score, user, replicates=400)["auc"]
    by_row = metric_intervals(label, score, np.arange(len(user)), replicates=400)["auc"]
    assert clustered.value == pytest.approx(by_row.value)
    assert clustered.low < clustered.value < clustered.high
    assert clustered.high - clustered.low > 2 * (by_row.high - by_row.low)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    covered = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        label = generator.integers(0, 2, 200)
        interval = metric_intervals(label, generator.normal(size=200), generator.integers(0, 60, 200), replicates=200)
        covered += interval["auc"].low <= 0.5 <= interval["auc"].high
    assert 87 <= covered <= 100


def test_nothing_has_no_interval() -> None:
    assert np.isnan(metric_intervals([], [], [])["auc"].low)
    assert np.isnan(percentile_interval(0.5, np.array([np.nan])).high)


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ConfigError, match="bootstrap: expected at least 1 replicate, got 0"):
        next(user_counts(3, 0, 0))
    with pytest.raises(ConfigError, match=r"confidence: expected a number inside \(0, 1\), got 95"):
        percentile_interval(0.5, np.array([0.5]), 95)
    with pytest.raises(DataError, match="got NaN at row 0"):
        metric_intervals([1], [np.nan], [1])
