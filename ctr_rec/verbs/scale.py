"""`ctr-rec scale`: a family of runs over depth or width."""

from __future__ import annotations

from pathlib import Path

import click

from ctr_rec.verbs import EVENTS, PATH, Verb


@click.command(cls=Verb)
@click.argument("recipe", metavar="RECIPE.py:FUNCTION")
@click.option("--over", multiple=True, required=True, metavar="KEY=A,B,C", help="Sizes: tower.layers=1,2,4,6.")
@click.option("--with", "together", multiple=True, metavar="KEY=A,B,C", help="Moves with --over, value by value.")
@click.option("--seeds", type=EVENTS, default=3, show_default=True, help="Runs of each size, seeds 1, 2, ...")
@click.option("--baseline", metavar="RECIPE.py:FUNCTION", help="Gains are over this model; default over chance.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting of every run.")
@click.option("--run-dir", type=PATH, required=True, help="Folder of all runs; the same command again goes on.")
def scale(
    recipe: str,
    over: tuple[str, ...],
    together: tuple[str, ...],
    seeds: int,
    baseline: str | None,
    overrides: tuple[str, ...],
    run_dir: Path,
) -> int:
    """Train a family of sizes, draw its gain over a baseline and fit a power law of parameters and FLOPs."""
    from ctr_rec.scale.main import scale as run
    from ctr_rec.sharding.launch import recorded

    return recorded(lambda: run(recipe, over, together, overrides, run_dir, seeds=seeds, baseline=baseline))
