"""Which tables a model gets, from what the log has and what the recipe asks for."""

from __future__ import annotations

import pytest

from ctr_rec.errors import ConfigError, SchemaError
from ctr_rec.schema.log import Counter, Feature, Kind, Known, LogSchema, Side, Vocabulary
from ctr_rec.schema.manifest import LogManifest
from ctr_rec.schema.table import EmbeddingSettings, SparseSpec, TableSettings, sparse_spec
from tests.schema.test_manifest import manifest

FEATURES = (
    Feature(name="age", kind=Kind.CATEGORY, side=Side.USER, table="age"),
    Feature(name="film", kind=Kind.CATEGORY, side=Side.ITEM, table="item"),
    Feature(name="genres", kind=Kind.CATEGORIES, side=Side.ITEM, table="genre"),
    Feature(name="title", kind=Kind.TEXT, side=Side.ITEM),
    Feature(name="page", kind=Kind.CATEGORY, side=Side.EVENT, table="page"),
    Feature(name="dwell", kind=Kind.NUMBER, side=Side.EVENT, known=Known.ACTION),
)
ROWS = {"age": 4, "genre": 5, "page": 6}


def log(features: tuple[Feature, ...] = FEATURES) -> LogManifest:
    used = sorted({f.table for f in features if f.table})
    made = LogSchema(
        name="toy",
        features=features,
        vocabularies=tuple(Vocabulary(table=t) for t in used),
        actions=("none", "click", "buy"),
        labels=("clicked",),
        counters=(Counter(name="item_click", by="item", label="clicked"),),
        time_unit="ms",
    )
    return manifest(**ROWS).model_copy(update={"data_schema": made})


def spec(**settings: object) -> SparseSpec:
    return sparse_spec(log(), EmbeddingSettings.model_validate(settings))


def test_tables_come_from_the_log_in_a_fixed_order() -> None:
    got = spec()
    assert [(t.name, t.rows, t.dim, t.bags) for t in got.tables] == [
        ("age", 4, 16, True),
        ("genre", 5, 16, False),
        ("item", 10, 16, False),
        ("page", 6, 16, False),
    ]
    assert [t.name for t in got.collection()] == ["genre", "item", "page"]
    assert [f.name for f in got.bag_features()] == ["age"]
    assert got.table("item").rows == 10


def test_features_by_level_without_text_and_candidates_without_actions() -> None:
    got = spec()
    assert [f.name for f in got.item] == ["film", "genres"]
    assert [f.name for f in got.event] == ["page", "dwell"]
    assert [f.name for f in got.impression] == ["page"]
    assert got.counters == ("item_click_count", "item_click_rate")
    assert (got.num_actions, got.ticks_per_second) == (3, 1000)


def test_a_table_s_own_settings_win() -> None:
    got = spec(dim=8, tables={"item": TableSettings(dim=32, init_std=0.5, learning_rate=0.1, sharding="row_wise")})
    item, page = got.table("item"), got.table("page")
    assert (item.dim, item.init_std, item.learning_rate, item.sharding) == (32, 0.5, 0.1, "row_wise")
    assert (page.dim, page.init_std, page.learning_rate, page.sharding) == (8, 0.01, None, None)


def test_what_is_excluded_takes_its_table_with_it() -> None:
    got = spec(exclude=("page", "item_click"))
    assert "page" not in [t.name for t in got.tables]
    assert got.counters == ()
    assert got.impression == ()


def test_unknown_names_are_refused_with_what_the_log_has() -> None:
    with pytest.raises(ConfigError, match=r"embedding\.tables names 'itme'; the log 'toy' has \['age', 'genre'"):
        spec(tables={"itme": TableSettings()})
    with pytest.raises(ConfigError, match=r"embedding\.exclude names 'fimls'; the log 'toy' has \['age', 'dwell'"):
        spec(exclude=("fimls",))


def test_a_table_of_profiles_and_items_at_once_is_refused() -> None:
    favourite = Feature(name="favourite", kind=Kind.CATEGORY, side=Side.USER, table="item")
    with pytest.raises(SchemaError, match=r"table \['item'\] is read both by user profiles and by items or events"):
        sparse_spec(log((*FEATURES, favourite)), EmbeddingSettings())
    assert sparse_spec(log((*FEATURES, favourite)), EmbeddingSettings(exclude=("favourite",))).table("item").rows == 10
