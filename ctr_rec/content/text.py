"""`ctr-rec content text`: the text of a recipe's items to frozen vectors."""

from __future__ import annotations

import time
from pathlib import Path

import polars as pl
from rich.console import Console

from ctr_rec.content.encoder import encode, encoder_files
from ctr_rec.content.write import write_vectors
from ctr_rec.errors import ConfigError
from ctr_rec.prepare.encode import raw_ids
from ctr_rec.prepare.progress import Progress
from ctr_rec.prepare.raw import canonical_side
from ctr_rec.prepare.recipe import DataRecipe, load_data_recipe, read_raw
from ctr_rec.prepare.values import check_unique
from ctr_rec.schema.content import ITEM_ID, ContentInfo
from ctr_rec.schema.log import Kind, Side

ITEM_TEXT = "item_text"


def content_text(
    recipe_dir: Path,
    raw: Path,
    out: Path,
    encoder: str,
    split: str | None = None,
    console: Console | None = None,
    progress: Progress | None = None,
) -> None:
    """Encodes a sentence per item of the raw log and writes FILE.parquet and FILE.json; items without text have none.

    The sentence is what the recipe's `item_text` makes of its items, or else their TEXT features, parted by ". ".
    split: for recipes that read item attributes up to the end of a training range; as in `prepare`.

    Raises:
        ConfigError: the recipe has no text of items, or the encoder cannot be loaded. DataError: as `prepare`.
    """
    console = console or Console()
    files = encoder_files(encoder)  # missing files are said before a log is read
    recipe = load_data_recipe(recipe_dir)
    sentences, made_of = item_sentences(recipe, raw, split)
    if sentences.height == 0:
        raise ConfigError(f"{raw}: no item has text; {made_of} is empty everywhere")
    begun = time.monotonic()
    with (progress or Progress()).stage("encode", sentences.height) as advance:
        vectors = encode(files, sentences["text"].to_list(), advance)
    info = ContentInfo(
        method="text",
        model=files.name,
        settings={"recipe": recipe.schema.name, "text": made_of, "example": sentences["text"][0], "pooling": "mean"},
    )
    write_vectors(out, raw_ids(sentences[ITEM_ID]), vectors, info)
    console.print(
        f"{sentences.height:,} items encoded by {files.name} in {time.monotonic() - begun:.0f} s, "
        f"{vectors.shape[1]} numbers each: {out}",
        highlight=False,
        soft_wrap=True,
    )


def item_sentences(recipe: DataRecipe, raw: Path, split: str | None) -> tuple[pl.DataFrame, str]:
    """(item_id, text) of every item that has some text, and in words what the text is made of."""
    schema = recipe.schema
    log = read_raw(recipe, raw, recipe.split(split or "default"))
    texts = [f.name for f in schema.of(Side.ITEM) if f.kind is Kind.TEXT]
    items = canonical_side(log.items, schema, Side.ITEM, log)
    if items is None or not (texts or recipe.item_text):
        raise ConfigError(
            f"{recipe.folder}: no item feature of schema.py is TEXT and build.py has no {ITEM_TEXT}(items); add one, "
            "or learn vectors from the log itself with `ctr-rec content cooccurrence`"
        )
    frame = items.collect()
    check_unique(frame, ITEM_ID, f"items of {log.name()}")
    if recipe.item_text is None:
        joined = pl.concat_str([pl.col(t).str.strip_chars() for t in texts], separator=". ", ignore_nulls=True)
        found, made_of = frame.select(joined).to_series(), " and ".join(texts)
    else:
        found, made_of = recipe.item_text(frame), f"{ITEM_TEXT} of {recipe.folder.name}/build.py"
        if not isinstance(found, pl.Series) or found.dtype != pl.String or len(found) != frame.height:
            got = f"{found.dtype} [{len(found)}]" if isinstance(found, pl.Series) else type(found).__name__
            raise ConfigError(
                f"{recipe.folder / 'build.py'}: {ITEM_TEXT}(items) must return a Series of {frame.height} strings, one "
                f"per item, got {got}"
            )
    whole = frame.select(ITEM_ID).with_columns(found.alias("text"))
    return whole.filter(pl.col("text").fill_null("").str.strip_chars() != ""), made_of
