"""Items become sentences by the recipe's own words or by its TEXT features, and sentences become a file of vectors."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from ctr_rec.content import text
from ctr_rec.content.encoder import EncoderFiles
from ctr_rec.content.text import content_text, item_sentences
from ctr_rec.errors import ConfigError
from ctr_rec.prepare.progress import Progress
from ctr_rec.prepare.vectors import read_vectors
from ctr_rec.schema.content import load_info
from tests.prepare.raws import random_raw, recipe_of, simple_raw, simple_schema

RECIPE = """
from ctr_rec.prepare.raw import RawLog
from tests.prepare.raws import random_raw
def read(raw):
    return random_raw()
"""
SCHEMA = "from tests.prepare.raws import SCHEMA, SPLIT\n"


def folder(path: Path, more: str = "") -> Path:
    path.mkdir()
    (path / "schema.py").write_text(SCHEMA)
    (path / "build.py").write_text(RECIPE + more)
    return path


@pytest.fixture(autouse=True)
def lengths_for_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that counts letters."""

    def count(_: EncoderFiles, sentences: Sequence[str], advance: Any) -> np.ndarray:
        advance(len(sentences))
        return np.array([[len(s), 1.0] for s in sentences], np.float32)

    monkeypatch.setattr(text, "encoder_files", lambda name: EncoderFiles(Path("nowhere"), f"{name} 7"))
    monkeypatch.setattr(text, "encode", count)


def encoded(recipe: Path, out: Path) -> dict[Any, list[float]]:
    content_text(recipe, recipe, out, "letters", console=Console(file=io.StringIO()), progress=Progress(quiet=True))
    frame, _ = read_vectors(out)
    return dict(zip(frame["item_id"], frame["vector"].to_list(), strict=True))


def test_text_features_are_taken_as_they_are(tmp_path: Path) -> None:
    found = encoded(folder(tmp_path / "small"), tmp_path / "v.parquet")
    assert sorted(found) == [k for k in range(19) if k != 2], "item 2 has no text"
    ratio = found[12][0] / found[12][1]
    assert ratio == pytest.approx(len("thing 12"), abs=1e-4)
    info = load_info(tmp_path / "v.parquet")
    assert info is not None
    assert (info.method, info.model, info.trained_until) == ("text", "letters 7", None)
    assert (info.settings["text"], info.settings["example"]) == ("title", "thing 0")


def test_a_recipes_own_words_come_first(tmp_path: Path) -> None:
    own = "def item_text(items):\n    return items['thing'] + ' with ' + items['tags'].list.join(', ')\n"
    encoded(folder(tmp_path / "small", own), tmp_path / "v.parquet")
    info = load_info(tmp_path / "v.parquet")
    assert info is not None
    assert info.settings["text"] == "item_text of small/build.py"
    assert info.settings["example"] == "t0 with "


def test_words_that_are_no_words_are_refused(tmp_path: Path) -> None:
    for number, (returned, got) in enumerate([("1", "int"), ("items['price']", r"Float64 \[19\]")]):
        recipe = folder(tmp_path / f"r{number}", f"def item_text(items):\n    return {returned}\n")
        with pytest.raises(ConfigError, match=rf"item_text\(items\) must return a Series of 19 strings.* got {got}"):
            encoded(recipe, tmp_path / "v.parquet")
    empty = folder(tmp_path / "empty", "def item_text(items):\n    return items['thing'].str.slice(0, 0)\n")
    with pytest.raises(ConfigError, match=r"no item has text; item_text of empty/build.py is empty everywhere"):
        encoded(empty, tmp_path / "v.parquet")


def test_a_log_without_text_names_the_other_way(tmp_path: Path) -> None:
    recipe = recipe_of(simple_raw(), simple_schema())
    with pytest.raises(ConfigError, match=r"no item feature of schema.py is TEXT .* `ctr-rec content cooccurrence`"):
        item_sentences(recipe, tmp_path, None)


def test_several_texts_are_parted(tmp_path: Path) -> None:
    recipe = recipe_of(random_raw())
    more = recipe.schema.feature("title").model_copy(update={"name": "claim"})
    schema = recipe.schema.model_copy(update={"features": (*recipe.schema.features, more)})
    raw = random_raw()
    assert raw.items is not None
    items = raw.items.with_columns(claim=pl.when(pl.col("item_id") < 2).then(pl.lit(" so good ")))
    raw = type(raw)(raw.events, raw.users, items)
    found, made_of = item_sentences(recipe_of(raw, schema), tmp_path, None)
    assert made_of == "title and claim"
    assert found["text"].head(3).to_list() == ["thing 0. so good", "thing 1. so good", "thing 3"]
