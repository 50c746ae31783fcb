import numpy as np
import pytest
from rich.console import Console

from ctr_rec.errors import ConfigError, DataError
from ctr_rec.evaluate import slices
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.metrics.mergeable import all_metrics


def _predictions(num_rows: int = 700) -> Predictions:
    generator = np.random.default_rng(0)
    return Predictions(
        impression=np.arange(num_rows),
        user=generator.integers(0, 40, num_rows),
        item=generator.integers(0, 90, num_rows),
        request_time=generator.integers(0, 200, num_rows),
        history_length=generator.integers(0, 300, num_rows),
        item_is_new=generator.random(num_rows) < 0.2,
        label=generator.integers(0, 2, num_rows).astype(np.float32),
        logit=generator.normal(size=num_rows).astype(np.float32),
    )


def _expected(predictions: Predictions, mask: np.ndarray) -> dict[str, float]:
    return all_metrics(predictions.label[mask], predictions.logit[mask], predictions.user[mask])


def test_history_buckets_hold_the_metrics_of_their_rows() -> None:
    rows = _predictions()
    found = slices.by_history_length(rows)
    lengths = {"0": (0, 0), "1-4": (1, 4), "50-99": (50, 99), "200-499": (200, 499)}
    buckets = {bucket.name: bucket for bucket in found.buckets}
    assert list(buckets)[:3] == ["0", "1-4", "5-9"]
    assert "500-999" not in buckets
    for name, (low, high) in lengths.items():
        mask = (rows.history_length >= low) & (rows.history_length <= high)
        assert buckets[name].metrics == pytest.approx(_expected(rows, mask), nan_ok=True)
        assert buckets[name].impressions == mask.sum()
        assert buckets[name].users == len(np.unique(rows.user[mask]))


@pytest.mark.parametrize("index", range(4))
def test_every_impression_is_in_one_bucket(index: int) -> None:
    found = slices.standard_slices(_predictions())[index]
    assert sum(bucket.impressions for bucket in found.buckets) == 700
    assert sum(bucket.share for bucket in found.buckets) == pytest.approx(1)


def test_new_items_are_apart_from_known_ones() -> None:
    rows = _predictions()
    known, new = slices.by_new_item(rows).buckets
    assert (known.name, new.name) == ("in training", "new")
    assert new.metrics == pytest.approx(_expected(rows, rows.item_is_new))


def test_users_are_known_by_an_array_of_the_log() -> None:
    rows = _predictions()
    is_new = np.arange(40) >= 30
    _, new = slices.by_known_user(rows, is_new).buckets
    assert new.metrics == pytest.approx(_expected(rows, rows.user >= 30))
    with pytest.raises(DataError, match="expected users below 30, got user number 39; pass the array of the log"):
        slices.by_known_user(rows, is_new[:30])


def test_activity_counts_the_users_own_impressions() -> None:
    rows = _predictions()
    counts = np.bincount(rows.user)[rows.user]
    bucket = next(b for b in slices.by_user_activity(rows).buckets if b.name == "10-19")
    assert bucket.impressions == ((counts >= 10) & (counts < 20)).sum()


def test_time_is_cut_in_even_parts_that_never_part_a_request() -> None:
    rows = _predictions()
    found = slices.by_time(rows, 4)
    assert [bucket.name for bucket in found.buckets] == [f"part {part} of 4" for part in (1, 2, 3, 4)]
    assert all(abs(bucket.impressions - 175) < 12 for bucket in found.buckets)
    one_request = Predictions(**(vars(rows) | {"request_time": np.zeros(700, np.int64)}))
    assert [bucket.impressions for bucket in slices.by_time(one_request, 4).buckets] == [700]


def test_nothing_has_no_buckets() -> None:
    nothing = Predictions(**{name: column[:0] for name, column in vars(_predictions()).items()})
    assert [found.buckets for found in slices.standard_slices(nothing)] == [()] * 4


def test_a_bucket_of_one_class_has_counts_and_nan() -> None:
    rows = _predictions()
    found = slices.slice_by(rows, "label", rows.label.astype(np.int64), ("no", "yes"))
    assert [bucket.impressions for bucket in found.buckets] == [int((rows.label == 0).sum()), int(rows.label.sum())]
    assert all(np.isnan(bucket.metrics["auc"]) for bucket in found.buckets)


def test_tables_fit_eighty_columns() -> None:
    console = Console(record=True, width=80)
    for found in slices.standard_slices(_predictions()):
        console.print(found.table())
    printed = console.export_text()
    assert "by history length" in printed
    assert "…" not in printed


def test_impossible_buckets_are_refused() -> None:
    rows = _predictions()
    with pytest.raises(ConfigError, match=r"history length: expected ascending bucket edges, got \[0, 5, 5\]"):
        slices.by_history_length(rows, (0, 5, 5))
    with pytest.raises(ConfigError, match="expected at least 1 part of time, got 0"):
        slices.by_time(rows, 0)
    row = int((rows.history_length < 5).argmax())
    with pytest.raises(
        DataError, match=f"history length: expected at least 5, got {rows.history_length[row]} at row {row}"
    ):
        slices.by_history_length(rows, (5, 10))
    with pytest.raises(DataError, match="colour: expected 700 bucket codes, got 3; pass one per impression"):
        slices.slice_by(rows, "colour", np.zeros(3, np.int64), ("red",))
    with pytest.raises(DataError, match="colour: expected codes below 1, got 2 at row 5; name every bucket"):
        slices.slice_by(rows, "colour", np.eye(700, dtype=np.int64)[5] * 2, ("red",))
