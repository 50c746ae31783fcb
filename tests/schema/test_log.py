"""A schema that contradicts itself is refused, with the name of what contradicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from ctr_rec.schema.log import Counter, Feature, Kind, Known, LogSchema, Side, Split, Vocabulary

ITEM = Feature(name="film", kind=Kind.CATEGORY, side=Side.ITEM, table="item")
TITLE = Feature(name="title", kind=Kind.TEXT, side=Side.ITEM)
DWELL = Feature(name="dwell", kind=Kind.NUMBER, side=Side.EVENT, known=Known.ACTION, log1p=True)


def schema(**changes: Any) -> LogSchema:
    fields: dict[str, Any] = {
        "name": "toy",
        "features": (ITEM, TITLE, DWELL),
        "vocabularies": (Vocabulary(table="item"),),
        "actions": ("none", "click"),
        "labels": ("clicked",),
        "counters": (Counter(name="item_click", by="item", label="clicked"),),
    }
    return LogSchema(**{**fields, **changes})


def test_features_are_found_by_side_and_name_in_declared_order() -> None:
    toy = schema()
    assert toy.of(Side.ITEM) == [ITEM, TITLE]
    assert toy.of(Side.USER) == []
    assert toy.feature("dwell") is DWELL


def test_a_minimum_count_without_effect_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"vocabulary 't': hash_rows gives every id a row, so min_count 2"):
        Vocabulary(table="t", hash_rows=7, min_count=2)


def test_an_unknown_feature_lists_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"schema 'toy' has no feature 'films'; it has \['film', 'title', 'dwell'\]"):
        schema().feature("films")


@pytest.mark.parametrize(("unit", "ticks"), [("s", 1), ("ms", 1000), ("us", 1_000_000)])
def test_ticks_per_second(unit: str, ticks: int) -> None:
    assert schema(time_unit=unit).ticks_per_second == ticks


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"name": "1x", "kind": Kind.NUMBER}, "feature name '1x': expected letters, digits and _"),
        ({"name": "a b", "kind": Kind.NUMBER}, "feature name 'a b'"),
        ({"name": "c", "kind": Kind.CATEGORY}, "feature 'c' of kind category needs table; name it"),
        ({"name": "c", "kind": Kind.CATEGORIES}, "feature 'c' of kind categories needs table"),
        ({"name": "n", "kind": Kind.NUMBER, "table": "t"}, "feature 'n' of kind number takes no table; remove it"),
        (
            {"name": "n", "kind": Kind.NUMBER, "known": Known.ACTION},
            "'n': only event features can be known with",
        ),
        ({"name": "v", "kind": Kind.VECTOR}, "'v': dim belongs to VECTOR features and is required there"),
        ({"name": "n", "kind": Kind.NUMBER, "dim": 3}, "'n': dim belongs to VECTOR features"),
        ({"name": "v", "kind": Kind.VECTOR, "dim": 0}, "greater than or equal to 1"),
        ({"name": "n", "kind": Kind.NUMBER, "optional": True}, "'n': optional belongs to NUMBER features of events"),
        (
            {"name": "c", "kind": Kind.CATEGORIES, "table": "t", "optional": True},
            "'c': optional belongs to NUMBER features of events, got categories of user; remove it",
        ),
        ({"name": "t", "kind": Kind.TEXT, "log1p": True}, "'t': log1p acts on NUMBER features only, got text"),
    ],
)
def test_a_feature_that_contradicts_itself_is_refused(fields: dict[str, Any], part: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Feature(side=Side.USER, **fields)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"features": (ITEM, ITEM)}, "feature film is declared more than once"),
        ({"vocabularies": (Vocabulary(table="item"),) * 2}, "vocabulary item is declared more than once"),
        ({"actions": ("none", "none")}, "action none is declared more than once"),
        ({"labels": ("clicked", "clicked")}, "label clicked is declared more than once"),
        ({"counters": (Counter(name="c", by="user", label="clicked"),) * 2}, "counter c is declared more than once"),
        ({"vocabularies": ()}, "feature 'film' names table 'item', which has no vocabulary; declared: none"),
        ({"features": (TITLE,)}, "no feature uses table item; remove its vocabulary"),
        ({"counters": (Counter(name="c", by="item", label="liked"),)}, "counter 'c' counts unknown label 'liked'"),
        ({"actions": ()}, "actions"),
        ({"labels": ()}, "labels"),
        ({"time_unit": "minutes"}, "time_unit"),
        ({"action_delay": -1}, "action_delay"),
    ],
)
def test_a_schema_that_contradicts_itself_is_refused(changes: dict[str, Any], part: str) -> None:
    with pytest.raises(ValidationError) as caught:
        schema(**changes)
    assert part in str(caught.value)


def test_a_counter_counts_by_item_or_user() -> None:
    with pytest.raises(ValidationError, match="by"):
        Counter(name="c", by="city", label="clicked")


@pytest.mark.parametrize("ends", [(2, 1, None), (1, 1, None), (1, 3, 2), (1, 2, 2)])
def test_split_ends_must_grow(ends: tuple[int, int, int | None]) -> None:
    with pytest.raises(ValidationError, match="split ends must grow: train_end < valid_end < test_end, got"):
        Split(train_end=ends[0], valid_end=ends[1], test_end=ends[2])


def test_training_must_begin_before_it_ends() -> None:
    with pytest.raises(ValidationError, match=r"must grow: train_start < train_end < .*, got \[1, 1, 2\]"):
        Split(train_start=1, train_end=1, valid_end=2)


def test_a_feature_that_is_always_there_is_written_as_before_there_were_others() -> None:
    always, optional = (Feature(name="n", kind=Kind.NUMBER, side=Side.EVENT, optional=on) for on in (False, True))
    assert "optional" not in always.model_dump_json()
    assert Feature.model_validate_json(always.model_dump_json()) == always
    assert Feature.model_validate_json(optional.model_dump_json()) == optional


def test_a_split_without_a_start_is_written_as_before_there_was_one() -> None:
    assert Split(train_end=1, valid_end=2).model_dump_json() == '{"train_end":1,"valid_end":2,"test_end":null}'
    day = Split(train_start=0, train_end=1, valid_end=2)
    assert Split.model_validate_json(day.model_dump_json()) == day
    assert day.model_dump()["train_start"] == 0


def test_a_period_has_a_training_range_alone() -> None:
    assert Split(train_end=1).valid_end is None
    with pytest.raises(ValueError, match="test_end 3 without valid_end; name both, or neither for a period"):
        Split(train_end=1, test_end=3)


def test_a_split_may_end_early() -> None:
    assert Split(train_end=1, valid_end=2).test_end is None
    assert Split(train_end=1, valid_end=2, test_end=3).test_end == 3


TIMES = (9, 10, 11, 20, 21, 30, 31)  # every end belongs to the range before it
SPLIT = Split(train_end=10, valid_end=20, test_end=30)


@pytest.mark.parametrize(
    ("split", "numbers"),
    [
        (SPLIT, [0, 0, 1, 1, 2, 2, 3]),
        (SPLIT.model_copy(update={"test_end": None}), [0, 0, 1, 1, 2, 2, 2]),
        (SPLIT.model_copy(update={"train_start": 9}), [-1, 0, 1, 1, 2, 2, 3]),
        (Split(train_start=9, train_end=20), [-1, 0, 0, 0, 3, 3, 3]),
    ],
)
def test_the_range_of_a_time_is_one_rule_for_numbers_numpy_and_polars(split: Split, numbers: list[int]) -> None:
    times = pl.DataFrame({"t": TIMES})
    assert [split.number(t) for t in TIMES] == numbers
    assert split.number(np.array(TIMES)).tolist() == numbers
    assert times.select(split.number(pl.col("t"))).to_series().to_list() == numbers
    for number in range(3):
        inside = [n == number for n in numbers]
        assert [split.holds(number, t) for t in TIMES] == inside
        assert split.holds(number, np.array(TIMES)).tolist() == inside
        assert times.select(split.holds(number, pl.col("t"))).to_series().to_list() == inside
