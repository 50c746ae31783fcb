"""EST over one to five epochs from a warm start, with tables that go on, begin again at the start, or are drawn anew.

    M=1651050705056   # half of the training impressions lie before it
    ctr-rec prepare data/kuairand_pure --raw FOLDER --out logs/kuairand_first --split $M,1651269755690
    ctr-rec content cooccurrence logs/kuairand_first --out logs/kuairand_first.parquet
    ctr-rec prepare data/kuairand_pure --raw FOLDER --out logs/kuairand_first_half --split $M,1651269755690 \\
        --content logs/kuairand_first.parquet
    ctr-rec prepare data/kuairand_pure --raw FOLDER --out logs/kuairand_second_half \\
        --split $M..1651269755690,1651305707912 --content logs/kuairand_first.parquet
    python -m launch.cards.est_epochs --card launch/records/NAME

EST's training (arXiv 2602.10811, section 5.5) on a log on which every model's validation AUC falls after one epoch.
An old EST sees the first half of the training range once; new ones take its tables, draw their dense weights anew and
see the second half five times. Validation is scored after each epoch, test not at all. Sizes are those of the card of
EST's table. Stopped anywhere, the same command goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import click

from launch.cards.curves import by_epoch, curve_of, draw
from launch.cards.est_sizes import SMALL
from launch.cards.jobs import Trained, card_option, config_of, environment_of, new_folder, run_all

ROOT = Path("runs/card_est_epochs")
RECIPE = "launch/recipes/est.py:est"
FIRST, SECOND = "logs/kuairand_first_half", "logs/kuairand_second_half"
SEEDS = (1, 2, 3)
EPOCHS = 5
METRICS = ("auc", "gauc")
SHARED = {
    **SMALL,
    "data.label": "is_click",
    "embedding.exclude": json.dumps(["item_click", "item_long_view", "user_click", "user_long_view"]),
}
# Tables of videos, authors and music have more rows than this; the small ones go on.
RESET = {"train.strategy": "multi_epoch_sparse_reset", "train.sparse_reset.min_rows": "1000"}
ARMS: Mapping[str, tuple[bool, Mapping[str, str]]] = {
    "warm, tables go on": (True, {}),
    "warm, back to the start": (True, RESET),
    "warm, then drawn anew": (True, {**RESET, "train.sparse_reset.to": "fresh"}),
    "cold, tables go on": (False, {}),
}


def old(seed: int) -> Trained:
    """The model that tables come from."""
    settings = {**SHARED, "data.log": FIRST, "train.epochs": "1", "train.seed": str(seed)}
    return Trained(ROOT / f"old-{seed}", RECIPE, settings, scored=())


def job(arm: str, seed: int) -> Trained:
    warm, own = ARMS[arm]
    settings = {**SHARED, "data.log": SECOND, "train.epochs": str(EPOCHS), "train.seed": str(seed), **own}
    if warm:
        settings["warm_start"] = json.dumps({"source": str(old(seed).folder), "checkpoint": "last", "dense": "none"})
    slug = "_".join("".join(c if c.isalnum() else " " for c in arm).split())
    return Trained(ROOT / f"{slug}-{seed}", RECIPE, settings, scored=())


@click.command()
@card_option
def main(card: Path) -> None:
    """Run what is not done yet and write the card."""
    run_all([old(seed) for seed in SEEDS])
    run_all([job(arm, seed) for seed in SEEDS for arm in ARMS])
    found = {m: {a: [curve_of(job(a, s).folder, m, EPOCHS) for s in SEEDS] for a in ARMS} for m in METRICS}
    new_folder(card)
    for metric, curves in found.items():
        draw(curves, card / f"validation_{metric}.svg", "epoch", f"validation {metric.upper()}")
    tables = [f"### Validation {metric.upper()}\n\n{by_epoch(curves, EPOCHS)}" for metric, curves in found.items()]
    (card / "tables.md").write_text("\n".join(tables))
    first = old(SEEDS[0]).folder
    plain = {
        "environment": environment_of(first),
        "configs": {job(arm, 1).folder.name: config_of(job(arm, 1).folder) for arm in ARMS},
        "old": config_of(first),
        "curves": {m: {a: [c.plain() for c in seeds] for a, seeds in each.items()} for m, each in found.items()},
    }
    (card / "results.json").write_text(json.dumps(plain, indent=1) + "\n")
    print(f"tables, curves and plots: {card}", flush=True)


if __name__ == "__main__":
    main()
