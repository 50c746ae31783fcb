"""Kind, side and what is known when, of every column without a role."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctr_rec.prepare.kinds import Column, feature_columns
from ctr_rec.prepare.profile import profile
from ctr_rec.prepare.roles import find_roles
from ctr_rec.schema.log import Kind, Known, Side
from tests.prepare.logs import write_shop

N = 600
R = np.random.default_rng(0)
USER, ITEM, LABEL = R.integers(0, 30, N), R.integers(0, 50, N), R.integers(0, 2, N)


def column(path: Path, name: str, values: object) -> Column:
    data = {"user_id": USER, "item_id": ITEM, "time": 1_600_000_000 + np.arange(N), "clicked": LABEL, name: values}
    pl.DataFrame(data, strict=False).write_parquet(path / "f.parquet")
    table = profile(path / "f.parquet")
    (found,) = feature_columns(table, find_roles(table, {}))
    return found


WORDS = np.array(["alpha", "beta", "gamma", "delta"])


@pytest.mark.parametrize(
    ("name", "values", "kind", "side"),
    [
        ("land", WORDS[USER % 4], Kind.CATEGORY, Side.USER),
        ("brand", WORDS[ITEM % 4], Kind.CATEGORY, Side.ITEM),
        ("slot", R.integers(0, 8, N), Kind.CATEGORY, Side.EVENT),
        ("shop_code", R.integers(0, 500, N), Kind.CATEGORY, Side.EVENT),
        ("amount", R.integers(0, 500, N), Kind.NUMBER, Side.EVENT),
        ("weight", (ITEM * 0.37).round(2), Kind.NUMBER, Side.ITEM),
        ("title", [f"a long title of the thing number {i}" for i in ITEM], Kind.TEXT, Side.ITEM),
        ("genres", ["|".join(WORDS[: 1 + i % 4]) for i in ITEM], Kind.CATEGORIES, Side.ITEM),
        ("topics", [[int(i) % 3, 7] for i in ITEM], Kind.CATEGORIES, Side.ITEM),
        ("gaps", [None if k % 3 == 0 else "x" if k % 2 else "y" for k in range(N)], Kind.CATEGORIES, Side.EVENT),
    ],
)
def test_kind_and_side(tmp_path: Path, name: str, values: object, kind: Kind, side: Side) -> None:
    found = column(tmp_path, name, values)
    (feature,) = found.features
    assert (feature.name, feature.kind, feature.side, feature.known) == (name, kind, side, Known.REQUEST), found.why


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        ("row", range(N), "another value in every row"),
        ("country", ["de"] * N, "the same value everywhere"),
        ("updated", ["2020-01-01 10:00:00", "2021-01-01 10:00:00"] * (N // 2), "a second column of times"),
        ("avg_ctr", ITEM * 0.01, "statistic over the whole period"),
        ("record", [{"a": 1}] * N, "nested records"),
    ],
)
def test_left_out_with_a_reason(tmp_path: Path, name: str, values: object, why: str) -> None:
    found = column(tmp_path, name, values)
    assert found.features == ()
    assert why in found.why


def test_outcomes_are_known_with_the_action(tmp_path: Path) -> None:
    named = column(tmp_path, "dwell_time", R.random(N))
    assert named.features[0].known is Known.ACTION
    told = column(tmp_path, "quantity", LABEL * 5.0 + R.random(N))
    assert told.features[0].known is Known.ACTION
    assert "alone it reaches AUC 1.00" in told.why
    worded = column(tmp_path, "state", np.where(LABEL == 1, "basket", "shelf"))
    assert worded.features[0].known is Known.ACTION


FIRST_CLICK = {u: min(k for k in range(N) if USER[k] == u and k > 250 + 5 * u) for u in set(USER.tolist())}


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([WORDS[u % 4] if k >= FIRST_CLICK[u] else None for k, u in enumerate(USER.tolist())], "some event on in 30"),
        ([WORDS[u % 4] if LABEL[k] else None for k, u in enumerate(USER.tolist())], "it is filled reaches AUC 1.00"),
    ],
)
def test_an_attribute_that_the_action_fills_is_none(tmp_path: Path, values: list, why: str) -> None:
    found = column(tmp_path, "segment", values)
    assert (found.features[0].side, found.features[0].known) == (Side.EVENT, Known.ACTION)
    assert why in found.why
    assert "history only, never the candidate's" in found.why


def test_an_attribute_with_gaps_anywhere_is_believed(tmp_path: Path) -> None:
    values = [WORDS[u % 4] if R.random() < 0.5 else None for u in USER.tolist()]
    found = column(tmp_path, "segment", values)
    assert (found.features[0].side, found.features[0].known) == (Side.USER, Known.REQUEST)


def test_a_number_with_gaps_gets_a_flag(tmp_path: Path) -> None:
    values = [None if k % 5 == 0 else float(v) for k, v in enumerate(R.random(N))]
    found = column(tmp_path, "height", values)
    assert [(f.name, f.kind) for f in found.features] == [
        ("height", Kind.NUMBER),
        ("height_missing", Kind.CATEGORY),
    ]
    assert "20.0% missing" in found.why


def test_skewed_numbers_get_log1p(tmp_path: Path) -> None:
    assert column(tmp_path, "price", R.lognormal(0, 2, N)).features[0].log1p
    assert not column(tmp_path, "price", R.random(N)).features[0].log1p
    assert not column(tmp_path, "price", -R.lognormal(0, 2, N)).features[0].log1p


@pytest.mark.parametrize(
    ("raw", "name"),
    [("Preis (EUR)!", "preis_eur"), ("2nd", "c_2nd"), ("request_time", "request_time_value"), ("ß", "column")],
)
def test_names_are_made_legal(tmp_path: Path, raw: str, name: str) -> None:
    assert column(tmp_path, raw, R.random(N)).features[0].name == name


def test_two_columns_never_share_a_name(tmp_path: Path) -> None:
    write_shop(tmp_path / "shop.csv")
    text = (tmp_path / "shop.csv").read_text().replace("price;", "Price?;").replace("tags;", "price;")
    (tmp_path / "shop.csv").write_text(text)
    table = profile(tmp_path / "shop.csv")
    names = [f.name for c in feature_columns(table, find_roles(table, {})) for f in c.features]
    assert len(names) == len(set(names))
    assert {"price", "price_value"} <= set(names)
