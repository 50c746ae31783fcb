"""One, two and three epochs on MovieLens-1M, with and without tables that begin again at each epoch.

    ctr-rec prepare data/movielens_1m --raw FOLDER --out logs/movielens_1m
    python -m launch.cards.sparse_reset --card launch/records/NAME

DIN and HSTU, three seeds, constant learning rate, no early stopping: a run of three epochs holds those of one and two.
Validation is scored twice an epoch; test is not scored at all. Stopped anywhere, the same command goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from launch.cards.curves import Curve, by_epoch, curve_of, draw
from launch.cards.jobs import Trained, card_option, config_of, environment_of, new_folder, run_all

ROOT = Path("runs/card_sparse_reset")
RECIPES = "launch/recipes/movielens.py"
SEEDS = (1, 2, 3)
EPOCHS = 3
# The film table alone has more rows than this; the others are small and go on.
RESET = {"train.strategy": "multi_epoch_sparse_reset", "train.sparse_reset.min_rows": "1000"}
ARMS: Mapping[str, Mapping[str, str]] = {
    "joint": {},
    "reset": RESET,
    "fresh": {**RESET, "train.sparse_reset.to": "fresh"},
}
# Half an epoch, in steps.
HALF = {"din": 97, "hstu": 58}


@dataclass(frozen=True)
class Entry:
    """One run: a model trained in one of ARMS with a seed."""

    model: str
    arm: str
    job: Trained


def entries(arms: Sequence[str]) -> list[Entry]:
    found = []
    for seed in SEEDS:
        for model, half in HALF.items():
            for arm in arms:
                settings = {
                    "train.seed": str(seed),
                    "train.epochs": str(EPOCHS),
                    "validation.every": str(half),
                    "validation.patience": "null",
                    **ARMS[arm],
                }
                job = Trained(ROOT / f"{model}-{arm}-{seed}", f"{RECIPES}:{model}", settings, scored=())
                found.append(Entry(model, arm, job))
    return found


def curves(wanted: Sequence[Entry]) -> dict[str, list[Curve]]:
    """Validation AUC by epoch, a curve per seed, by `model arm`."""
    found: dict[str, list[Curve]] = {}
    for one in wanted:
        found.setdefault(f"{one.model} {one.arm}", []).append(curve_of(one.job.folder, "auc", length=EPOCHS))
    return found


@click.command()
@click.option("--arm", "arms", type=click.Choice(list(ARMS)), multiple=True, default=["joint", "reset"])
@card_option
def main(arms: tuple[str, ...], card: Path) -> None:
    """Run what is not done yet and write the card."""
    wanted = entries(arms)
    run_all([one.job for one in wanted])
    found = curves(wanted)
    new_folder(card)
    draw(found, card / "validation_auc.svg", "epoch", "validation AUC", panel=lambda name: name.split()[0])
    (card / "table.md").write_text(by_epoch(found, EPOCHS))
    first = wanted[0].job.folder
    environment = environment_of(first)
    plain = {
        "environment": environment,
        "configs": {one.job.folder.name: config_of(one.job.folder) for one in wanted},
        "curves": {name: [c.plain() for c in seeds] for name, seeds in found.items()},
    }
    (card / "results.json").write_text(json.dumps(plain, indent=1) + "\n")
    print(f"table, curves and plot: {card}", flush=True)


if __name__ == "__main__":
    main()
