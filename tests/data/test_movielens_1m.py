"""The MovieLens-1M recipe on GroupLens' layout, and the published counts where the real files are."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from ctr_rec.errors import DataError
from ctr_rec.prepare.recipe import load_data_recipe
from ctr_rec.schema.log import Split
from data.movielens_1m.build import item_text, read
from tests.data.folders import ROOT, movielens_1m, real
from tests.prepare.raws import build

FOLDER = ROOT / "data" / "movielens_1m"


def test_columns_mean_what_the_schema_says(tmp_path: Path) -> None:
    raw = read(movielens_1m(tmp_path))
    events = raw.events.collect()
    assert events.height == 480
    assert (events["label_liked"] == (events["action"] >= 3)).all()
    assert raw.items is not None
    item = raw.items.collect().row(7, named=True)
    assert item == {"item_id": 7, "film": "7", "genres": ["Comedy", "Drama"], "year": "1947", "title": "Café 7 (1947)"}


@pytest.mark.parametrize(
    ("title", "year", "expected"),
    [
        ("Matrix, The (1999)", "1999", "The Matrix, a film of 1999. Genres: Action, War."),
        (
            "City of Lost Children, The (Cité des enfants perdus, La) (1995)",
            "1995",
            "The City of Lost Children (La Cité des enfants perdus), a film of 1995. Genres: Action, War.",
        ),
        ("Eclisse, L' (1962)", "1962", "L'Eclisse, a film of 1962. Genres: Action, War."),
        ("Corrina, Corrina (1994)", "1994", "Corrina, Corrina, a film of 1994. Genres: Action, War."),
        ("I, Worst of All (Yo, la peor de todas)", "unknown", None),
    ],
)
def test_a_film_is_one_sentence(title: str, year: str, expected: str | None) -> None:
    films = pl.DataFrame({"title": [title], "year": [year], "genres": [["Action", "War"]]})
    found = item_text(films)
    assert found.to_list() == [expected or f"{title}, a film. Genres: Action, War."]


def test_it_prepares_with_its_own_schema(tmp_path: Path) -> None:
    recipe = load_data_recipe(FOLDER)
    raw = recipe.read(movielens_1m(tmp_path))
    split = Split(train_end=974_000_000, valid_end=975_000_000)
    assert build(raw, tmp_path / "log", recipe.schema, split).users == 8


def test_a_bad_line_and_a_bad_rating_are_named(tmp_path: Path) -> None:
    movielens_1m(tmp_path)
    users = (tmp_path / "users.dat").read_text().replace("3::F::25::3::00003", "3::F::25")
    (tmp_path / "users.dat").write_text(users)
    with pytest.raises(DataError, match=r"users\.dat, line 3: expected 5 fields parted by ::, got 3"):
        read(tmp_path)
    movielens_1m(tmp_path)
    ratings = (tmp_path / "ratings.dat").read_text().replace("1::5::1::", "1::5::x::", 1)
    (tmp_path / "ratings.dat").write_text(ratings)
    recipe = load_data_recipe(FOLDER)
    with pytest.raises(DataError, match=r"column 'action' of events of ratings\.dat.*row 6: expected a value"):
        build(
            recipe.read(tmp_path), tmp_path / "log", recipe.schema, Split(train_end=974_000_000, valid_end=975_000_000)
        )


def test_missing_files_name_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing ratings\.dat, users\.dat, movies\.dat"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("default", [795_841, 99_478, 99_480]),
        ("middle", [530_559, 66_321, 66_320]),
        ("early", [265_279, 33_160, 33_160]),
    ],
)
def test_splits_of_the_real_log(name: str, counts: list[int]) -> None:
    recipe = load_data_recipe(FOLDER)
    split = recipe.split(name)
    times = recipe.read(real("ml-1m")).events.select("time")
    if split.test_end is not None:
        times = times.filter(pl.col("time") <= split.test_end)
    found = times.select(split.number(pl.col("time")).alias("split")).collect()["split"]
    assert found.value_counts().sort("split")["count"].to_list() == counts
