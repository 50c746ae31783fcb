"""A recipe folder is loaded, and what is wrong with it is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctr_rec.errors import ConfigError, DataError
from ctr_rec.prepare.recipe import folder_name, load_data_recipe, read_raw, schema_beside
from ctr_rec.schema.log import Split

SCHEMA = (
    "from ctr_rec.schema.log import LogSchema, Split\n"
    "SCHEMA = LogSchema(name='x', actions=('no', 'yes'), labels=('click',), features=(), vocabularies=())\n"
)
SPLIT = "SPLIT = Split(train_end=1, valid_end=2)\n"
BUILD = "def read(raw):\n    return None\n"


def folder(path: Path, schema: str = SCHEMA + SPLIT, build: str = BUILD) -> Path:
    (path / "schema.py").write_text(schema)
    (path / "build.py").write_text(build)
    return path


def test_one_split_is_the_default(tmp_path: Path) -> None:
    recipe = load_data_recipe(folder(tmp_path))
    assert recipe.schema.name == "x"
    assert recipe.split() == Split(train_end=1, valid_end=2)
    assert recipe.item_text is None
    assert schema_beside(str(tmp_path / "build.py")) == recipe.schema


def test_splits_by_name_or_ends(tmp_path: Path) -> None:
    splits = "SPLITS = {'default': Split(train_end=1, valid_end=2), 'early': Split(train_end=0, valid_end=1)}\n"
    recipe = load_data_recipe(folder(tmp_path, SCHEMA + splits))
    assert recipe.split("early").train_end == 0
    assert recipe.split("3,5") == Split(train_end=3, valid_end=5)
    assert recipe.split("3,5,9") == Split(train_end=3, valid_end=5, test_end=9)
    assert recipe.split("-1..3,5,9") == Split(train_start=-1, train_end=3, valid_end=5, test_end=9)
    assert recipe.split("1 .. 3,5") == Split(train_start=1, train_end=3, valid_end=5)
    with pytest.raises(ConfigError, match=r"has no split 'erly'; it has early"):
        recipe.split("erly")
    for text in ("1,b", "1,2,3,4", ",", "..1,2", "1..2,3,4,5", "1..,2", "--1,2"):
        with pytest.raises(ConfigError, match=r"as whole numbers in the log's time unit, got '"):
            recipe.split(text)
    with pytest.raises(ConfigError, match=r"^split 5,3: split ends must grow"):
        recipe.split("5,3")


@pytest.mark.parametrize(
    ("schema", "build", "words"),
    [
        ("x = 1\n", BUILD, "expected SCHEMA, a LogSchema, got NoneType"),
        (SCHEMA, BUILD, "expected SPLIT = Split"),
        (SCHEMA + "SPLITS = {'late': Split(train_end=1, valid_end=2)}\n", BUILD, 'key "default"'),
        (SCHEMA + SPLIT, "x = 1\n", "expected a function read"),
        (SCHEMA + SPLIT, "import nowhere_at_all\n", "build.py raises ModuleNotFoundError when loaded"),
        (SCHEMA + "Split(train_end='a', valid_end=2)\n", BUILD, "train_end: input should be a valid integer"),
    ],
)
def test_each_fault_of_a_recipe_is_named(tmp_path: Path, schema: str, build: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_data_recipe(folder(tmp_path, schema, build))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        ("def read(raw):\n    raise KeyError('x')\n", ConfigError, "raises KeyError: 'x'; mend the recipe"),
        ("def read(raw):\n    return 3\n", ConfigError, "must return a RawLog, got int"),
        (
            "from ctr_rec.errors import DataError\ndef read(raw):\n    raise DataError('own words')\n",
            DataError,
            "own words",
        ),
    ],
)
def test_a_recipe_that_fails_is_named(tmp_path: Path, build: str, error: type[Exception], words: str) -> None:
    recipe = load_data_recipe(folder(tmp_path, build=build))
    with pytest.raises(error) as caught:
        read_raw(recipe, tmp_path, recipe.split())
    assert words in str(caught.value)
    with pytest.raises(DataError, match=r"nowhere does not exist.*README"):
        read_raw(recipe, tmp_path / "nowhere", recipe.split())


def test_a_reader_that_asks_for_the_split_gets_the_one_in_use(tmp_path: Path) -> None:
    build = "from ctr_rec.errors import DataError\ndef read(raw, split):\n    raise DataError(str(split.train_end))\n"
    recipe = load_data_recipe(folder(tmp_path, build=build))
    with pytest.raises(DataError, match=r"^7$"):
        read_raw(recipe, tmp_path, Split(train_end=7, valid_end=8))


def test_a_folder_without_files_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is no data recipe.*schema\.py is missing"):
        load_data_recipe(tmp_path)
    (tmp_path / "schema.py").write_text("x = 1\n")
    with pytest.raises(ConfigError, match="expected SCHEMA"):
        schema_beside(str(tmp_path / "build.py"))


@pytest.mark.parametrize(("log", "name"), [("My Clicks-2024.csv.gz", "my_clicks_2024"), ("---.csv", "log")])
def test_the_folder_of_a_log_is_named_after_it(log: str, name: str) -> None:
    assert folder_name(Path(log)) == name
