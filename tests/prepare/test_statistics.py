"""Moments merge, and items, priors and features are counted as stated."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from ctr_rec.prepare.statistics import Moments, Statistics, transformed
from ctr_rec.schema.log import Feature, Kind, Side
from tests.prepare.raws import simple_schema


def test_moments_merge_to_the_weighted_whole() -> None:
    r = np.random.default_rng(0)
    values, weights = r.normal(3, 2, 100) + 1e6, r.integers(0, 4, 100).astype(np.float64)
    moments = Moments()
    for part in np.array_split(np.arange(100), 7):
        moments.add(values[part], weights[part])
    moments.add(np.zeros(3), np.zeros(3))
    whole = np.repeat(values, weights.astype(int))
    assert moments.info().mean == pytest.approx(whole.mean())
    assert moments.info().std == pytest.approx(whole.std())


def test_a_constant_can_be_divided_by() -> None:
    moments = Moments()
    assert moments.info().std == 1.0
    moments.add(np.full(5, 7.0), np.ones(5))
    assert (moments.info().mean, moments.info().std) == (7.0, 1.0)


def test_log1p_comes_before_the_moments() -> None:
    f = Feature(name="f", kind=Kind.NUMBER, side=Side.EVENT, log1p=True)
    np.testing.assert_allclose(transformed(pl.Series([0.0, np.e - 1]), f), [0.0, 1.0])


def test_items_and_prior_over_parts() -> None:
    tags = Feature(name="tags", kind=Kind.CATEGORIES, side=Side.EVENT, table="tags")
    statistics = Statistics(simple_schema(tags))
    for shift in (0, 10):
        statistics.add_events(
            pl.DataFrame(
                {
                    "item_id": [3, 1, 3],
                    "time": [5 + shift, 6, 7],
                    "request": [0, 1, 2],
                    "impression": [True, True, False],
                    "split": pl.Series([0, 1, 0], dtype=pl.Int8),
                    "label_click": [1.0, 1.0, None],
                    "tags": [["a", "b"], ["a"], []],
                }
            )
        )
    assert statistics.items().rows() == [(1, 6, 0), (3, 5, 4)]
    assert statistics.prior("click") == 1.0
    assert statistics.impressions == [2, 2, 0]
    assert statistics.first_request == [0, 3]
    assert (statistics.first_time, statistics.last_time) == (5, 15)
    assert dict(statistics.counts["tags"].frame().iter_rows()) == {"a": 2, "b": 2}
    statistics.add_events(pl.DataFrame(schema={"item_id": pl.Int64}))
    assert statistics.first_request == [0, 3, 6]
