"""An old DIN's tables under a new HSTU on MovieLens-1M, beside starting cold and beside training the old model on.

    ctr-rec prepare data/movielens_1m --raw FOLDER --out logs/movielens_1m
    ctr-rec prepare data/movielens_1m --raw FOLDER --out logs/movielens_1m_first_half --split first_half
    ctr-rec prepare data/movielens_1m --raw FOLDER --out logs/movielens_1m_second_half --split second_half
    python -m launch.cards.warm_start --card launch/records/NAME

The old model sees the first half of the training range, the new ones the second: a warm start from the same impressions
would be a second pass over them. Validation (the default cut's) is scored four to six times a pass; test is not scored.
Stopped anywhere, the same command goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from launch.cards.curves import by_passes, curve_of, draw
from launch.cards.jobs import Trained, card_option, config_of, environment_of, new_folder, run_all

ROOT = Path("runs/card_warm_start")
RECIPES = "launch/recipes/movielens.py"
SEEDS = (1, 2, 3)
# Steps between validations. A packed pass over the second half has more steps than one over the first: the events
# before it come along as context.
EVERY = {"din": 24, "hstu": 15}


@dataclass(frozen=True)
class Arm:
    """What is trained: a recipe, whether from the old model, what its curve is called, and its passes over one half."""

    name: str
    recipe: str
    model: str
    warm: bool
    settings: Mapping[str, str]
    passes: int = 2


ARMS = (
    Arm("HSTU warm, second half", "hstu_warm", "hstu", True, {}),
    Arm("HSTU cold, second half", "hstu_cold", "hstu", False, {}),
    Arm("HSTU cold, both halves", "hstu", "hstu", False, {"train.epochs": "2", "validation.patience": "null"}, 4),
    Arm("old DIN trained on, second half", "din_on", "din", True, {}),
)


def old(seed: int) -> Trained:
    return Trained(ROOT / f"old-{seed}", f"{RECIPES}:din_old", {"train.seed": str(seed)}, scored=())


def job(arm: Arm, seed: int) -> Trained:
    settings = {"train.seed": str(seed), "validation.every": str(EVERY[arm.model]), **arm.settings}
    if arm.warm:
        settings["warm_start.source"] = str(old(seed).folder)
    return Trained(ROOT / f"{arm.recipe}-{seed}", f"{RECIPES}:{arm.recipe}", settings, scored=())


@click.command()
@card_option
def main(card: Path) -> None:
    """Run what is not done yet and write the card."""
    run_all([old(seed) for seed in SEEDS])
    run_all([job(arm, seed) for seed in SEEDS for arm in ARMS])
    found = {arm.name: [curve_of(job(arm, seed).folder, "auc", length=arm.passes) for seed in SEEDS] for arm in ARMS}
    new_folder(card)
    draw(found, card / "validation_auc.svg", "passes over one half of the training range", "validation AUC")
    (card / "table.md").write_text(by_passes(found, "best", lambda c: max(c.value)))
    first = old(SEEDS[0]).folder
    environment = environment_of(first)
    plain = {
        "environment": environment,
        "configs": {arm.recipe: config_of(job(arm, 1).folder) for arm in ARMS},
        "old": config_of(first),
        "reports": {
            f"{arm.recipe}-{seed}": json.loads((job(arm, seed).folder / "warm-start.json").read_text())
            for arm in ARMS
            if arm.warm
            for seed in SEEDS
        },
        "curves": {name: [c.plain() for c in seeds] for name, seeds in found.items()},
    }
    (card / "results.json").write_text(json.dumps(plain, indent=1) + "\n")
    print(f"table, curves and plot: {card}", flush=True)


if __name__ == "__main__":
    main()
