"""Settings: strict overrides, JSON round trips that keep the class, recipes, and the sentence for each mistake."""

from __future__ import annotations

import json
import sys
from enum import Enum
from pathlib import Path

import pytest
from pydantic import Field, SerializeAsAny, ValidationError, model_validator

from ctr_rec.config import Config, OpenConfig, explain, from_json, load_function, load_recipe, override
from ctr_rec.errors import ConfigError, SchemaError


class Colour(str, Enum):
    RED = "red"
    BLUE = "blue"


class Table(Config):
    dim: int | None = Field(default=None, ge=1)
    std: float = 0.1


class Tower(OpenConfig):
    width: int = 8


class Deep(Tower):
    depth: int = 2
    hidden: tuple[int, ...] = (64, 32)


class Train(Config):
    seed: int = 1
    rate: float = 0.5
    fast: bool = False
    note: str = "none"
    limit: int | None = None
    colour: Colour = Colour.RED

    @model_validator(mode="after")
    def _sense(self) -> Train:
        if self.seed == 13:
            raise ConfigError("seed 13 is unlucky; take 14")
        return self


class Whole(Config):
    train: Train = Train()
    tables: dict[str, Table] = Field(default_factory=dict)
    tower: SerializeAsAny[Tower] = Deep()


def refused(*assignments: str, config: Whole | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        override(config or Whole(), list(assignments))
    return str(caught.value)


def test_values_are_json_or_plain_text() -> None:
    changed = override(
        Whole(),
        [
            "train.seed=3",
            "train.rate=1e-3",
            "train.fast=true",
            "train.note=a b=c",
            "train.limit=7",
            "train.colour=blue",
            "tower.hidden=[1, 2, 3]",
            "tower.depth=4",
        ],
    )
    train = Train(seed=3, rate=1e-3, fast=True, note="a b=c", limit=7, colour=Colour.BLUE)
    assert changed == Whole(train=train, tower=Deep(depth=4, hidden=(1, 2, 3)))


def test_text_that_looks_like_json_stays_text() -> None:
    assert override(Whole(), ["train.note=3"]).train.note == "3"
    assert override(Whole(), ["train.note=true"]).train.note == "true"


def test_null_clears_an_optional() -> None:
    assert override(Whole(train=Train(limit=3)), ["train.limit=null"]).train.limit is None


def test_the_original_is_untouched_and_later_ones_win() -> None:
    whole = Whole()
    assert override(whole, ["train.seed=2", "train.seed=5"]).train.seed == 5
    assert whole.train.seed == 1


def test_a_whole_child_can_be_given() -> None:
    assert override(Whole(), ['train={"seed": 9}']).train == Train(seed=9)


def test_a_dict_gains_a_key_whole_or_by_part() -> None:
    assert override(Whole(), ['tables.item={"dim": 8}']).tables == {"item": Table(dim=8)}
    whole = override(Whole(), ["tables.item.dim=8", "tables.user.std=0.5"])
    assert whole.tables == {"item": Table(dim=8), "user": Table(std=0.5)}
    assert override(whole, ["tables.item.std=2"]).tables["item"] == Table(dim=8, std=2)


def test_a_typo_names_its_nearest_neighbours() -> None:
    assert refused("train.sede=3") == "--set train.sede: unknown key 'sede'; did you mean seed?"
    assert "did you mean train or tower?" in refused("trian.seed=3")
    assert "unknown key 'zzz'; known here: train, tables, tower" in refused("zzz=3")


def test_a_typo_in_a_dict_is_no_new_key() -> None:
    message = refused("tables.itme.dim=3", config=Whole(tables={"item": Table()}))
    assert "unknown key 'itme'; did you mean item?" in message


def test_a_typo_below_a_new_dict_key_is_refused() -> None:
    assert refused("tables.item.dmi=3") == (
        "--set tables.item.dmi=3: tables.item.dmi: extra inputs are not permitted, got 3"
    )


def test_a_key_below_a_plain_value_is_refused() -> None:
    assert "'x' is below a plain value" in refused("train.seed.x=3")


def test_a_missing_equals_sign_is_refused() -> None:
    assert refused("train.seed") == ("--set expects key=value, got 'train.seed'; for example --set train.seed=3")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (
            "train.seed=three",
            "seed: input should be a valid integer, unable to parse string as an integer, got 'three'",
        ),
        ("train.seed=2.5", "got 2.5"),
        ("train.seed=true", "expected a number such as 1, got true"),
        ("train.seed=null", "seed: input should be a valid integer, got None"),
        ("train.rate=NaN", "rate: input should be a finite number"),
        ("train.fast=perhaps", "fast: input should be a valid boolean"),
        ("train.colour=green", "colour: input should be 'red' or 'blue', got 'green'"),
        ("tables.item.dim=0", "tables.item.dim: input should be greater than or equal to 1, got 0"),
        ('tower.hidden=[1, "x"]', "hidden.1: input should be a valid integer"),
    ],
)
def test_a_wrong_value_is_refused_in_words(text: str, part: str) -> None:
    assert part in refused(text)


def test_validators_of_every_level_run_again() -> None:
    assert refused("train.seed=13") == "--set train.seed=13: seed 13 is unlucky; take 14"


def test_a_long_value_is_shortened() -> None:
    assert len(refused("train.seed=" + "9x" * 500)) < 400


def test_json_keeps_the_class_of_an_open_child() -> None:
    whole = Whole(tower=Deep(depth=7), tables={"item": Table(dim=3)})
    text = whole.model_dump_json()
    assert json.loads(text)["tower"]["kind"].endswith(":Deep")
    assert from_json(Whole, text, "config.json") == whole


def test_json_of_another_shape_is_refused_with_the_file() -> None:
    with pytest.raises(ConfigError, match=r"^run/config\.json: train\.sede: extra inputs are not permitted, got 1$"):
        from_json(Whole, '{"train": {"sede": 1}}', "run/config.json")
    with pytest.raises(ConfigError, match=r"^run/config\.json: invalid JSON"):
        from_json(Whole, '{"train": ', "run/config.json")


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("subprocess_like.evil:Config", "is neither of ctr_rec nor of a recipe that is loaded"),
        ("ctr_rec.absent:Tower", "cannot be imported"),
        ("json:loads", "expected the path of a config class"),
        ("ctr_rec.config:Config", "expected a kind of Tower"),
    ],
)
def test_a_kind_is_looked_up_among_configs_only(kind: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        from_json(Whole, json.dumps({"tower": {"kind": kind}}), "config.json")


def test_a_module_named_in_json_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="neither of ctr_rec"):
        from_json(Whole, '{"tower": {"kind": "stranger:X"}}', "config.json")
    assert not (tmp_path / "ran").exists()
    assert "stranger" not in sys.modules


def test_configs_are_frozen_and_closed() -> None:
    with pytest.raises(ValidationError):
        Train().seed = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Train(sede=3)  # type: ignore[call-arg]


def test_explain_joins_all_findings() -> None:
    with pytest.raises(ValidationError) as caught:
        Train(seed="x", rate="y")  # type: ignore[arg-type]
    text = str(explain(caught.value, "recipe"))
    assert text.startswith("recipe: seed: ")
    assert "; rate: " in text


RECIPE = """
from tests.test_config import Train, Whole
from ctr_rec.errors import SchemaError

def plain():
    return Whole(train=Train(seed=4))

def wrong_type():
    return 3

def raises():
    return {}["x"]

def invalid():
    return Train(seed="x")

def contradicts():
    raise SchemaError("table item is read twice")

def _hidden():
    return Whole()
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE)
    return path


def recipe_error(target: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_recipe(target, Whole)
    return str(caught.value)


def test_a_recipe_returns_its_config(recipe: Path) -> None:
    from tests.test_config import Whole as SameWhole

    assert load_recipe(f"{recipe}:plain", SameWhole).train.seed == 4


@pytest.mark.parametrize(
    ("function", "part"),
    [
        ("wrong_type", "must return Whole, got int"),
        ("raises", "raises KeyError: 'x'"),
        ("invalid", "seed: input should be a valid integer"),
        ("plian", "has no function 'plian'; it offers: plain"),
        ("_hidden", "has no function '_hidden'"),
        ("Whole", "has no function 'Whole'"),
    ],
)
def test_a_bad_recipe_is_told_in_words(recipe: Path, function: str, part: str) -> None:
    message = recipe_error(f"{recipe}:{function}")
    assert part in message
    assert str(recipe) in message


def test_an_error_in_our_own_words_passes_unchanged(recipe: Path) -> None:
    with pytest.raises(SchemaError, match=r"^table item is read twice$"):
        load_recipe(f"{recipe}:contradicts", Whole)


def test_a_recipe_file_that_cannot_be_loaded(tmp_path: Path) -> None:
    assert "expected FILE.py:FUNCTION, got 'din'" in recipe_error("din")
    assert "does not exist" in recipe_error(f"{tmp_path}/absent.py:din")
    (tmp_path / "broken.py").write_text("def f(:\n")
    assert "raises SyntaxError when loaded" in recipe_error(f"{tmp_path}/broken.py:f")
    (tmp_path / "empty.py").write_text("")
    assert "it offers: none" in recipe_error(f"{tmp_path}/empty.py:f")


def test_a_recipe_s_own_config_class_survives_json(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(
        "from tests.test_config import Tower, Whole\n\nclass Mine(Tower):\n    extra: int = 5\n\n"
        "def mine():\n    return Whole(tower=Mine(extra=6))\n"
    )
    from tests.test_config import Whole as SameWhole

    whole = load_function(f"{path}:mine")()
    again = from_json(SameWhole, whole.model_dump_json(), "config.json")
    assert again == whole
    assert again.tower.extra == 6
