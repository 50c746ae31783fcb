"""The card of the baselines on MovieLens-1M: three rolling cuts in time, three seeds, against counters.

    python -m launch.cards.movielens_baselines --card launch/records/NAME   from the root, with all of CUTS prepared
    python -m launch.cards.movielens_baselines --cut early --model din --card launch/records/NAME

Stopped anywhere, the same command goes on where it was. Runs lie below runs/card_baselines, the card below
launch/records. Every model was chosen on validation; the test range of a run is scored once, at its end.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from launch.cards.jobs import Scored, Trained, card_option, config_of, new_folder, run_all
from launch.cards.summary import Row, markdown, plot, read_row

ROOT = Path("runs/card_baselines")
RECIPES = "launch/recipes/movielens.py"
CUTS = {"default": "logs/movielens_1m", "middle": "logs/movielens_1m_middle", "early": "logs/movielens_1m_early"}
SEEDS = (1, 2, 3)
SCORERS = ("item_mean", "counters2", "counters7")
TOWERS = ("hstu", "din", "mlp", "dcn_v2")
# Asked of the default cut alone: FuxiCTR's inputs, and whether running counters add to the best tower.
ONLY_DEFAULT = ("hstu_counters", "din_fuxictr")
REFERENCE = "counters7"


@dataclass(frozen=True)
class Entry:
    """One run of the card: a model (or a scorer) on a cut, with a seed where there is one."""

    cut: str
    model: str
    job: Trained | Scored


def entry(cut: str, model: str, seed: int | None = None) -> Entry:
    """The entry of a tower with a seed, or of a scorer without one."""
    if seed is None:
        return Entry(cut, model, Scored(ROOT / cut / model, model, CUTS[cut]))
    settings = {"data.log": CUTS[cut], "train.seed": str(seed)}
    return Entry(cut, model, Trained(ROOT / cut / f"{model}-{seed}", f"{RECIPES}:{model}", settings))


def entries(cuts: Sequence[str], models: Sequence[str]) -> list[Entry]:
    """All runs of the card, the scorers first: they take seconds."""
    found = [entry(cut, scorer) for cut in cuts for scorer in SCORERS]
    for cut in cuts:
        offered = (*TOWERS, *ONLY_DEFAULT) if cut == "default" else TOWERS
        found += [entry(cut, model, seed) for model in offered if model in models for seed in SEEDS]
    return found


def rows(wanted: Sequence[Entry]) -> list[Row]:
    """Every model of every cut with its finished runs, paired with the reference on the same cut."""
    by_model: dict[tuple[str, str], list[Path]] = {}
    for one in wanted:
        if one.job.done:
            by_model.setdefault((one.cut, one.model), []).append(one.job.folder)
    return [
        read_row(cut, model, runs, ROOT / cut / REFERENCE if model != REFERENCE else None)
        for (cut, model), runs in by_model.items()
    ]


def write_card(wanted: Sequence[Entry], folder: Path) -> None:
    """tables.md, results.json, test.svg and configs.json; the prose beside them is written by hand."""
    found = rows(wanted)
    new_folder(folder)
    plot(found, folder / "test.svg")
    environment, configs = {}, {}
    for row in found:
        if (row.runs[0] / "environment.json").is_file():
            environment = json.loads((row.runs[0] / "environment.json").read_text())
            configs[row.model] = config_of(row.runs[0])
    environment.pop("command", None)
    plain = {"environment": environment, "rows": [row.plain() for row in found]}
    (folder / "results.json").write_text(json.dumps(plain, indent=1) + "\n")
    (folder / "configs.json").write_text(json.dumps(configs, indent=1) + "\n")
    (folder / "tables.md").write_text(markdown(found, REFERENCE))
    print(f"tables, figures and plot: {folder}", flush=True)


@click.command()
@click.option("--cut", "cuts", type=click.Choice(list(CUTS)), multiple=True, default=list(CUTS))
@click.option("--model", "models", type=click.Choice([*TOWERS, *ONLY_DEFAULT]), multiple=True)
@card_option
def main(cuts: tuple[str, ...], models: tuple[str, ...], card: Path) -> None:
    """Run what is not done yet and write the card."""
    wanted = entries(cuts, models or (*TOWERS, *ONLY_DEFAULT))
    run_all([one.job for one in wanted])
    write_card(wanted, card)


if __name__ == "__main__":
    main()
