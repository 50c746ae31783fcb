import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from ctr_rec.errors import ConfigError, DataError
from ctr_rec.evaluate.compare import Comparison, align, compare, compare_runs
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.metrics.mergeable import all_metrics


def _predictions(noise: float, seed: int, num_rows: int = 1500, num_users: int = 80) -> Predictions:
    """The same impressions and labels for every (noise, seed); only the logits differ."""
    world = np.random.default_rng(0)
    user = world.integers(0, num_users, num_rows)
    truth = world.normal(size=num_users)[user] + world.normal(size=num_rows)
    label = (world.random(num_rows) < 1 / (1 + np.exp(-truth))).astype(np.float32)
    logit = truth + noise * np.random.default_rng(seed).normal(size=num_rows)
    return Predictions(
        impression=np.arange(num_rows) * 3 + 7,
        user=user,
        item=world.integers(0, 50, num_rows),
        request_time=np.arange(num_rows),
        history_length=world.integers(0, 90, num_rows),
        item_is_new=np.zeros(num_rows, np.bool_),
        label=label,
        logit=logit.astype(np.float32),
    )


def _rows(predictions: Predictions, rows: np.ndarray) -> Predictions:
    return Predictions(**{name: column[rows] for name, column in vars(predictions).items()})


@pytest.fixture(scope="module")
def found() -> Comparison:
    return compare([_predictions(2.0, 1)], [_predictions(0.5, 2)], names=("din", "hstu"), split="test")


def test_the_figures_are_the_exact_metrics_and_their_difference(found: Comparison) -> None:
    a, b = _predictions(2.0, 1), _predictions(0.5, 2)
    expected_a, expected_b = (all_metrics(side.label, side.logit, side.user) for side in (a, b))
    for key in ("auc", "gauc", "logloss", "ne"):
        row = found.difference(key)
        assert row.a == pytest.approx(expected_a[key], abs=1e-12)
        assert row.b == pytest.approx(expected_b[key], abs=1e-12)
        assert row.difference == pytest.approx(expected_b[key] - expected_a[key], abs=1e-12)
        assert row.low < row.difference < row.high
        assert row.replicates == 1000
    assert (found.impressions, found.users, found.positives) == (1500, 80, int(a.label.sum()))


def test_a_clearly_better_model_is_better_on_every_metric(found: Comparison) -> None:
    assert [row.verdict for row in found.differences] == ["better"] * 4
    assert all(row.resolvable for row in found.differences)
    assert all(row.p_value == pytest.approx(2 / 1001) for row in found.differences)
    worse = compare([_predictions(0.5, 2)], [_predictions(2.0, 1)])
    assert [row.verdict for row in worse.differences] == ["worse"] * 4
    for row, mirrored in zip(found.differences, worse.differences, strict=True):
        assert (mirrored.low, mirrored.high) == pytest.approx((-row.high, -row.low))


def test_a_model_against_itself_is_unresolved_with_p_one() -> None:
    itself = compare([_predictions(1.0, 1)], [_predictions(1.0, 1)])
    for row in itself.differences:
        assert (row.difference, row.low, row.high, row.p_value, row.verdict) == (0, 0, 0, 1, "unresolved")
        assert not row.resolvable
    assert "is not resolvable with 80 users" in itself.statements()[0]


def test_noise_alone_is_rarely_called_a_difference() -> None:
    called = sum(
        compare([_predictions(1.0, seed)], [_predictions(1.0, seed + 500)], replicates=200).difference("auc").resolvable
        for seed in range(40)
    )
    assert called <= 6


def test_resampling_users_is_wider_than_pretending_rows_are_independent() -> None:
    a = _predictions(1.0, 1)
    # b is better for every impression of half of the users and worse for the others.
    right_way = (2 * a.label - 1) * np.where(a.user % 2 == 0, 1, -1)
    b = replace(a, logit=(a.logit + right_way).astype(np.float32))
    lone = np.arange(len(a))
    by_user = compare([a], [b]).difference("logloss")
    by_row = compare([replace(a, user=lone)], [replace(b, user=lone)]).difference("logloss")
    assert by_user.difference == pytest.approx(by_row.difference)
    assert by_user.high - by_user.low > 2 * (by_row.high - by_row.low)


def test_the_same_seed_gives_the_same_interval_and_row_order_changes_nothing(found: Comparison) -> None:
    other = np.random.default_rng(3).permutation(1500)
    again = compare([_rows(_predictions(2.0, 1), other)], [_predictions(0.5, 2)], names=("din", "hstu"), split="test")
    assert again.to_json() == found.to_json()
    reseeded = compare([_predictions(2.0, 1)], [_predictions(0.5, 2)], seed=1)
    assert reseeded.difference("auc").low != found.difference("auc").low


def test_seeds_are_paired_and_averaged() -> None:
    a, b = [_predictions(1.0, seed) for seed in (1, 2, 3)], [_predictions(0.9, seed) for seed in (4, 5, 6)]
    together = compare(a, b, replicates=300)
    singles = [compare([one], [two], replicates=300) for one, two in zip(a, b, strict=True)]
    for key in ("auc", "gauc", "logloss", "ne"):
        row, alone = together.difference(key), [single.difference(key) for single in singles]
        assert row.per_seed == pytest.approx([one.difference for one in alone])
        assert row.difference == pytest.approx(np.mean(row.per_seed))
        assert row.a == pytest.approx(np.mean([one.a for one in alone]))
        assert row.seed_deviation == pytest.approx(np.std(row.per_seed, ddof=1))
        # The users drawn are the same in all four comparisons, so averaging over seeds narrows the interval.
        assert row.high - row.low < max(one.high - one.low for one in alone)
    assert together.seeds == 3


def test_seeds_that_disagree_are_told() -> None:
    good, bad = _predictions(0.3, 1), _predictions(3.0, 2)
    text = compare([good, bad], [bad, good], replicates=50).statements()[0]
    assert "the seeds disagree on the sign" in text


def test_one_class_is_undefined_and_not_an_exception() -> None:
    a, b = (replace(_predictions(1.0, seed), label=np.ones(1500, np.float32)) for seed in (1, 2))
    result = compare([a], [b], replicates=20)
    row = result.difference("auc")
    assert np.isnan([row.difference, row.low, row.p_value]).all()
    assert (row.verdict, row.replicates) == ("unresolved", 0)
    assert result.statements()[0] == "auc: undefined here, as a class is missing (overall or inside every user)."
    assert result.difference("logloss").replicates == 20
    assert json.loads(result.to_json())["differences"][0]["difference"] is None


def test_sides_with_different_numbers_of_runs_are_refused() -> None:
    one = _predictions(1.0, 1)
    with pytest.raises(ConfigError, match="expected as many runs on each side, got 1 and 2; pair them by seed"):
        compare([one], [one, one])
    with pytest.raises(ConfigError, match="got 0 and 0"):
        compare([], [])


def test_other_impressions_are_refused_with_their_number_and_the_first_ones() -> None:
    one = _predictions(1.0, 1)
    fewer = _rows(one, np.arange(5, 1500))
    with pytest.raises(
        DataError, match=r"b: expected the 1,500 impressions of a, got 5 \(first 7, 10, 13\) missing and 0 mo"
    ):
        compare([one], [fewer])
    moved = replace(one, impression=one.impression + 3)
    with pytest.raises(
        DataError, match=r"run 2 of b: .* got 1 \(first 7\) missing and 1 \(first 4507\) more; evaluate all"
    ):
        compare([one, one], [one, moved])


def test_other_labels_and_users_are_refused_with_their_number_and_the_first_ones() -> None:
    one = _predictions(1.0, 1)
    label = one.label.copy()
    label[[2, 4]] = 1 - label[[2, 4]]
    with pytest.raises(DataError, match=r"b: expected the label column of a, got another value for 2 .*first 13, 19\)"):
        compare([one], [replace(one, label=label)])
    with pytest.raises(DataError, match=r"b: expected the user column of a, got another value for 1,500 impressions"):
        compare([one], [replace(one, user=one.user + 1)])


def test_repeated_impressions_are_refused() -> None:
    one = _predictions(1.0, 1)
    impression = one.impression.copy()
    impression[1] = impression[0]
    with pytest.raises(
        DataError, match=r"a: expected every impression once, got 1 \(first 7\) repeated; predict again"
    ):
        compare([replace(one, impression=impression)], [one])


def test_a_nan_logit_names_its_file() -> None:
    one = _predictions(1.0, 1)
    logit = one.logit.copy()
    logit[3] = np.nan
    with pytest.raises(DataError, match="b, rows in order of impression: score: expected a number, got NaN at row 3"):
        compare([one], [replace(one, logit=logit)])


def test_no_impressions_are_refused() -> None:
    nothing = _rows(_predictions(1.0, 1), np.arange(0))
    with pytest.raises(DataError, match="a: expected at least one impression, got none"):
        align([nothing, nothing], ["a", "b"])


def test_runs_are_read_printed_and_saved(tmp_path: Path) -> None:
    for run, noise in (("din", 2.0), ("hstu", 0.5)):
        _predictions(noise, 1).save(tmp_path / run / "predictions" / "test.parquet")
    console = Console(record=True, width=80)
    out = tmp_path / "figures"
    result = compare_runs([tmp_path / "din"], [tmp_path / "hstu"], "test", out=out, replicates=100, console=console)
    printed = console.export_text()
    assert "hstu (b) against din (a), test: 1,500 impressions" in printed
    assert "hstu is better than din by" in printed
    assert "…" not in printed
    assert json.loads((out / "compare-test.json").read_text())["differences"][0]["metric"] == "auc"
    assert result.to_json() == (out / "compare-test.json").read_text().rstrip()
    assert (out / "compare-test.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (out / "compare-test.svg").read_text()


def test_the_table_with_seeds_fits_eighty_columns() -> None:
    console = Console(record=True, width=80)
    sides = [[_predictions(1.0, seed) for seed in seeds] for seeds in ((1, 2), (3, 4))]
    console.print(compare(*sides, names=("din-1 and 1 more", "hstu-1 and 1 more"), replicates=20).table())
    printed = console.export_text()
    assert "seed sd" in printed
    assert "…" not in printed
    assert "2 pairs of runs" in printed


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for day in ("monday", "tuesday"):
        _predictions(1.0, 1).save(tmp_path / day / "din" / "predictions" / "valid.parquet")
    days = [[tmp_path / "monday" / "din"], [tmp_path / "tuesday" / "din"]]
    result = compare_runs(*days, "valid", replicates=10, console=Console(quiet=True))
    assert (result.name_a, result.name_b) == ("monday/din", "tuesday/din")
    twice = compare_runs(days[0] * 2, days[0] * 2, "valid", replicates=10, console=Console(quiet=True))
    assert (twice.name_a, twice.name_b) == ("monday/din and 1 more (a)", "monday/din and 1 more (b)")


def test_a_run_without_predictions_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no predictions at .*din/predictions/test.parquet; run `ctr-rec evaluate`"):
        compare_runs([tmp_path / "din"], [tmp_path / "din"], "test")
