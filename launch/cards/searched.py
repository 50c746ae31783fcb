"""A card of several models on one log, each with the same search: every point of a small grid, then three seeds.

    ctr-rec prepare data/kuairand_pure --raw FOLDER --out logs/kuairand_pure
    python -m launch.cards.searched --recipes launch/recipes/kuairand.py --log logs/kuairand_pure \\
        --model grab --model hstu --model din --model dcn_v2 --card launch/records/NAME

A trial is seed 1 at one point of the grid, judged by its best validation AUC; the best one's settings train the other
seeds, and these alone score validation and test, once each. The first model is the one that the others are paired with.
--grid names another grid, the same for all models, --set a setting of all runs. cost.svg sets GAUC against arithmetic.
Stopped anywhere, the same command goes on. Runs lie below runs/card_searched/<name of the log>-<epochs>; with another
grid or other settings, name another --root: what lies there counts as done.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from ctr_rec.batch.config import Pointwise
from ctr_rec.config import load_recipe
from ctr_rec.schema.manifest import load_manifest
from ctr_rec.train.run import Run
from launch.cards import cost
from launch.cards.curves import curve_of
from launch.cards.jobs import OWN, Scored, Trained, card_option, config_of, environment_of, new_folder, run_all, said
from launch.cards.summary import Row, markdown, plot, read_row

ROOT = Path("runs/card_searched")
SEEDS = (1, 2, 3)
SCORERS = ("item_mean", "counters2", "counters7")
EPOCHS = 3
# Eight points for every model: how much a batch holds, and both learning rates.
RATES = {"dense.lr": ("1e-3", "4e-3"), "sharding.optimizer.lr": ("0.02", "0.05")}
POINTWISE = {"data.batches.impressions": ("512", "2048"), **RATES}
PACKED = {"data.batches.tokens": ("4096", "8192"), **RATES}

Point = Mapping[str, str]


def points(grid: Mapping[str, Sequence[str]]) -> list[Point]:
    """Every combination of the grid's values."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


@dataclass(frozen=True)
class Search:
    """One model's runs on a log. root: the folder they lie in. settings: of all runs.

    grid: values by setting, None for the usual eight points.
    """

    recipe: str
    model: str
    log: str
    root: Path
    epochs: int = EPOCHS
    grid: Mapping[str, Sequence[str]] | None = None
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def points(self) -> list[Point]:
        if self.grid is not None:
            return points(self.grid)
        run = load_recipe(self.recipe, Run)
        return points(POINTWISE if isinstance(run.data.batches, Pointwise) else PACKED)

    def job(self, point: Point, seed: int, chosen: bool) -> Trained:
        """chosen: it scores validation and test at its end."""
        settings = {
            "data.log": self.log,
            "train.seed": str(seed),
            "train.epochs": str(self.epochs),
            "validation.patience": "null",
            **self.settings,
            **point,
        }
        name = "-".join([self.model, *point.values(), str(seed)])
        return Trained(self.root / name, self.recipe, settings, ("valid", "test") if chosen else ())

    def trials(self) -> list[Trained]:
        return [self.job(point, SEEDS[0], False) for point in self.points]

    def found(self) -> dict[str, float]:
        """Best validation AUC of each trial, by the values of its point."""
        curves = [curve_of(job.folder, "auc", self.epochs) for job in self.trials()]
        named = (" ".join(f"{key}={value}" for key, value in point.items()) for point in self.points)
        return {name: max(curve.value) for name, curve in zip(named, curves, strict=True)}

    def best(self) -> Point:
        values = list(self.found().values())
        return self.points[values.index(max(values))]

    def seeds(self) -> list[Trained]:
        point = self.best()
        return [self.job(point, seed, True) for seed in SEEDS]


def rows(searches: Sequence[Search], scorers: Sequence[Scored], name: str) -> list[Row]:
    """Scorers and models, paired by seed with the first model."""
    reference = [job.folder for job in searches[0].seeds()]
    found = [read_row(name, one.scorer, [one.folder] * len(SEEDS), reference) for one in scorers]
    for search in searches:
        runs = [job.folder for job in search.seeds()]
        found.append(read_row(name, search.model, runs, None if search is searches[0] else reference))
    return found


def check_label(run: Run, settings: Mapping[str, str], labels: Sequence[str]) -> None:
    """Raises UsageError where models would be trained on another label than the scorers without a network read."""
    label = settings.get("data.label", run.data.label)
    if label != labels[0]:
        raise click.UsageError(
            f"models are trained on {label!r}, item mean and counters score the log's first label, {labels[0]!r}; "
            "train on that, or prepare a log in which the other stands first"
        )


@click.command()
@click.option("--recipes", required=True, help="File whose functions are the models.")
@click.option("--log", required=True, help="Prepared log.")
@click.option("--model", "models", multiple=True, required=True, help="The others are paired with the first.")
@click.option("--epochs", type=click.IntRange(min=1), default=EPOCHS, show_default=True)
@click.option("--grid", "axes", multiple=True, metavar="KEY=A,B", help="Axis of the grid, in place of the usual ones.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Setting of every run.")
@click.option("--root", type=click.Path(path_type=Path), help="Of the runs.")
@card_option
def main(
    recipes: str,
    log: str,
    models: tuple[str, ...],
    epochs: int,
    axes: tuple[str, ...],
    sets: tuple[str, ...],
    root: Path | None,
    card: Path,
) -> None:
    """Run what is not done yet and write the card."""
    name = Path(log).name
    root = root or ROOT / f"{name}-{epochs}"
    grid = {key: values.split(",") for key, values in said(axes, "--grid").items()} or None
    settings = said(sets, "--set", [*OWN, *(grid or {**POINTWISE, **PACKED})])
    check_label(load_recipe(f"{recipes}:{models[0]}", Run), settings, load_manifest(log).data_schema.labels)
    searches = [Search(f"{recipes}:{model}", model, log, root, epochs, grid, settings) for model in models]
    scorers = [Scored(root / scorer, scorer, log) for scorer in SCORERS]
    run_all([*scorers, *(job for search in searches for job in search.trials())])
    run_all([job for search in searches for job in search.seeds()])
    found = rows(searches, scorers, name)
    new_folder(card)
    plot(found, card / "test.svg")
    costs = [cost.read(search.model, [job.folder for job in search.seeds()], "test") for search in searches]
    cost.plot(costs, card / "cost.svg", "test")
    (card / "tables.md").write_text(f"{markdown(found, models[0])}\n{cost.table(costs)}")
    plain = {
        "environment": environment_of(searches[0].seeds()[0].folder),
        "trials": {search.model: search.found() for search in searches},
        "chosen": {search.model: dict(search.best()) for search in searches},
        "rows": [row.plain() for row in found],
        "cost": [one.plain() for one in costs],
        "configs": {search.model: config_of(search.seeds()[0].folder) for search in searches},
    }
    (card / "results.json").write_text(json.dumps(plain, indent=1) + "\n")
    print(f"tables, figures and plot: {card}", flush=True)


if __name__ == "__main__":
    main()
