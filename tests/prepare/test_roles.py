"""Roles by name and content, overrides, and what cannot be guessed."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from ctr_rec.errors import ConfigError, DataError
from ctr_rec.prepare.profile import profile
from ctr_rec.prepare.roles import Roles, find_roles, time_unit
from tests.prepare.logs import write_shop


def roles(path: Path, columns: dict[str, list], **overrides: str) -> Roles:
    n = 200
    data = {
        "user_id": [f"u{k % 20}" for k in range(n)],
        "item_id": [f"i{k % 33}" for k in range(n)],
        "timestamp": [1_600_000_000 + k for k in range(n)],
        "clicked": [k % 2 for k in range(n)],
    }
    frame = pl.DataFrame({k: v for k, v in {**data, **columns}.items() if v}, strict=False)
    frame.write_parquet(path / "f.parquet")
    return find_roles(profile(path / "f.parquet"), overrides)


def test_odd_names(tmp_path: Path) -> None:
    found = find_roles(profile(write_shop(tmp_path / "shop.csv")), {})
    assert found.columns() == {"user": "Customer No", "item": "Product!", "time": "ts_ms", "label": "outcome"}
    assert found.label_values.positive == ("y",)
    assert "1 for y; 0 for n" in found.reasons["label"]
    assert "milliseconds" in found.reasons["time"]


def test_plain_names(tmp_path: Path) -> None:
    found = roles(tmp_path, {"is_member": ["yes", "no"] * 100})
    assert found.columns() == {"user": "user_id", "item": "item_id", "time": "timestamp", "label": "clicked"}


@pytest.mark.parametrize(
    ("column", "values", "positive", "negative"),
    [
        ("outcome", ["buy", "pass"] * 100, ("buy",), ("pass",)),
        ("outcome", ["red", "blue", "blue", "blue"] * 50, ("red",), ("blue",)),
        ("was_clicked", [True, False] * 100, ("true",), ("false",)),
        ("target", ["1", "0", None, "1.0"] * 50, ("1",), ("0",)),
    ],
)
def test_two_valued_labels(tmp_path: Path, column: str, values: list, positive: tuple, negative: tuple) -> None:
    found = roles(tmp_path, {"clicked": [], column: values})
    assert found.label == column
    assert (found.label_values.positive, found.label_values.negative) == (positive, negative)


def test_a_rating_becomes_a_label_by_threshold(tmp_path: Path) -> None:
    found = roles(tmp_path, {"clicked": [], "rating": [1, 2, 3, 4, 5] * 40})
    assert (found.label, found.label_values.at_least) == ("rating", 4.0)


def test_actions_become_label_and_action(tmp_path: Path) -> None:
    found = roles(tmp_path, {"clicked": [], "event_type": ["view", "view", "cart", "purchase"] * 50})
    assert (found.label, found.action) == ("event_type", "event_type")
    assert found.label_values.positive == ("purchase",)
    assert found.label_values.negative == ("cart", "view")


def test_an_action_beside_a_label(tmp_path: Path) -> None:
    found = roles(tmp_path, {"behavior": ["view", "cart", "scroll", "read"] * 50})
    assert (found.label, found.action) == ("clicked", "behavior")


def test_a_request_belongs_to_one_user_and_holds_several_rows(tmp_path: Path) -> None:
    shared = [f"q{k % 20}-{k // 60}" for k in range(200)]
    assert roles(tmp_path, {"request_id": shared}).request == "request_id"
    assert roles(tmp_path, {"request_id": [f"q{k}" for k in range(200)]}).request is None
    assert roles(tmp_path, {"request_id": [f"q{k // 50}" for k in range(200)]}).request is None


def test_overrides_come_first(tmp_path: Path) -> None:
    found = roles(tmp_path, {"device": [f"d{k % 9}" for k in range(200)]}, user="device", label="clicked")
    assert found.user == "device"
    assert found.reasons["user"] == "named by --user"


def test_an_override_that_is_not_there_names_its_neighbours(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--user user_ids: f\.parquet has no such column; did you mean user_id"):
        roles(tmp_path, {}, user="user_ids")


def test_what_cannot_be_guessed_asks_for_the_option(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column looks like the label; name it with --label COL"):
        roles(tmp_path, {"clicked": [], "colour": ["red", "blue"] * 100})
    with pytest.raises(DataError, match="no column looks like the time"):
        roles(tmp_path, {"timestamp": [], "colour": ["red", "blue"] * 100})
    with pytest.raises(DataError, match=r"column 'item_id' cannot be a label: expected two values or a rating, got 33"):
        roles(tmp_path, {}, label="item_id")


@pytest.mark.parametrize(
    ("value", "unit", "divisor"),
    [(1_600_000_000, "s", 1), (1_600_000_000_000, "ms", 1), (1.6e15, "us", 1), (1.6e18, "us", 1000)],
)
def test_time_units_by_size(tmp_path: Path, value: float, unit: str, divisor: int) -> None:
    times = [int(value + k) for k in range(200)]
    pl.DataFrame({"t": times, "a": 1, "b": 2, "c": 3}).write_parquet(tmp_path / "t.parquet")
    found = time_unit(profile(tmp_path / "t.parquet").columns["t"])
    assert found is not None
    assert found[:2] == (unit, divisor)
    assert time_unit(profile(tmp_path / "t.parquet").columns["a"]) is None
