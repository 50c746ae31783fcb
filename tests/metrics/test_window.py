import numpy as np
import pytest

from ctr_rec.errors import CheckpointError, ConfigError, DataError
from ctr_rec.metrics.probability import calibration, logloss, ne
from ctr_rec.metrics.ranking import auc
from ctr_rec.metrics.window import WindowMetrics


def _rows(seed: int, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 2, num_rows), np.round(generator.normal(size=num_rows), 1).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 7, 64, 100, 333])
def test_only_the_last_impressions_count(batch: int) -> None:
    label, score = _rows(0, 333)
    window = WindowMetrics(capacity=100)
    for start in range(0, 333, batch):
        window.update(label[start : start + batch], score[start : start + batch])
    got = window.compute()
    assert got["impressions"] == len(window) == 100
    assert got["auc"] == auc(label[-100:], score[-100:])
    assert got["logloss"] == logloss(label[-100:], score[-100:])
    assert got["ne"] == ne(label[-100:], score[-100:]).value
    assert got["calibration"] == got["pcoc"] == calibration(label[-100:], score[-100:])


def test_a_window_that_is_not_full_counts_what_it_has() -> None:
    label, score = _rows(1, 30)
    window = WindowMetrics(capacity=100)
    window.update(label, score)
    window.update([], [])
    assert window.compute()["impressions"] == 30
    assert window.compute()["auc"] == auc(label, score)


def test_an_empty_window_is_nan_with_a_reason() -> None:
    got = WindowMetrics(capacity=3).compute()
    assert np.isnan(got["auc"])
    assert got["auc"].reason == "no impressions"  # type: ignore[attr-defined]
    assert WindowMetrics.compute_merged([])["impressions"] == 0


@pytest.mark.parametrize("capacity", [50, 100, 500])
def test_a_restored_window_goes_on_as_if_never_stopped(capacity: int) -> None:
    label, score = _rows(2, 400)
    whole, stopped = WindowMetrics(100), WindowMetrics(100)
    whole.update(label, score)
    stopped.update(label[:250], score[:250])
    restored = WindowMetrics(capacity)
    restored.load_arrays(stopped.to_arrays())
    kept = min(capacity, 100)
    assert len(restored) == kept
    assert restored.compute()["logloss"] == logloss(label[250 - kept : 250], score[250 - kept : 250])
    restored.update(label[250:], score[250:])
    if capacity == 100:
        assert restored.compute() == whole.compute()
    last = min(capacity, 250)
    assert restored.compute()["auc"] == auc(label[-last:], score[-last:])


def test_windows_of_all_ranks_are_scored_together_in_any_order() -> None:
    label, score = _rows(3, 90)
    ranks = [WindowMetrics(40), WindowMetrics(40), WindowMetrics(40)]
    ranks[0].update(label[:60], score[:60])
    ranks[2].update(label[60:], score[60:])
    states = [rank.to_arrays() for rank in ranks]
    expected = auc(label[20:], score[20:])
    assert WindowMetrics.compute_merged(states)["auc"] == expected
    assert WindowMetrics.compute_merged(states[::-1]) == WindowMetrics.compute_merged(states)


def test_bad_windows_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected a capacity of at least 1 impression, got 0"):
        WindowMetrics(0)
    with pytest.raises(CheckpointError, match="expected arrays label and score, got label; start with an empty window"):
        WindowMetrics(3).load_arrays({"label": np.zeros(1, np.uint8)})
    with pytest.raises(DataError, match="got NaN at row 0"):
        WindowMetrics(3).update([1], [np.nan])
