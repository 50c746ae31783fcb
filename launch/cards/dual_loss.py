"""A new GRAB beside an old DIN on MovieLens-1M: dual loss, stacked logits, a plain warm start, and starting cold.

    ctr-rec prepare data/movielens_1m --raw FOLDER --out logs/movielens_1m
    ctr-rec prepare data/movielens_1m --raw FOLDER --out logs/movielens_1m_first_half --split first_half
    ctr-rec prepare data/movielens_1m --raw FOLDER --out logs/movielens_1m_second_half --split second_half
    python -m launch.cards.dual_loss --card launch/records/NAME

The old model sees the first half of the training range, the new ones the second, two passes each. Tables have the old
model's width in all arms. Validation (the default cut's) is scored about six times a pass; test is not scored. Curves
are those of the tower alone, and of the original beside it for as long as it is there. Stopped anywhere, the same
command goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import click

from launch.cards.curves import Curve, by_passes, curve_of, draw
from launch.cards.jobs import Trained, card_option, config_of, environment_of, new_folder, run_all
from launch.cards.warm_start import old

ROOT = Path("runs/card_dual_loss")
RECIPES = "launch/recipes/movielens.py"
SEEDS = (1, 2, 3)
# Steps between validations, of packed and of pointwise batches.
EVERY = {"grab": 46, "din": 24}
# The arms without the original: no second network, and no channels that only it reads.
PLAIN = {"train.strategy": "joint", "train.dual_loss.fade_steps": "100", "data.channels": "{}", "beside": "null"}
COLD = {**PLAIN, "warm_start": "null"}


@dataclass(frozen=True)
class Arm:
    """What is trained: a recipe with the arm's own settings, and its passes over one half of the training range."""

    name: str
    slug: str
    settings: Mapping[str, str] = field(default_factory=dict)
    recipe: str = "grab_dual"
    warm: bool = True
    passes: int = 2

    def job(self, seed: int) -> Trained:
        model = "din" if self.recipe == "din_on" else "grab"
        settings = {"validation.every": str(EVERY[model]), "train.seed": str(seed)}
        if self.warm:
            settings["warm_start.source"] = str(old(seed).folder)
        return Trained(ROOT / f"{self.slug}-{seed}", f"{RECIPES}:{self.recipe}", {**settings, **self.settings}, ())


DUAL = Arm("dual loss", "dual")
ARMS = (
    DUAL,
    Arm("stacked logits", "stacked", {"train.dual_loss.form": "stacked"}),
    Arm("warm start alone, second half", "warm", {**PLAIN, "warm_start.dense": "none"}),
    Arm("cold, second half", "cold", COLD, warm=False),
    Arm("cold, both halves", "cold_both", {**COLD, "data.log": "logs/movielens_1m"}, warm=False, passes=4),
    Arm("old DIN trained on", "din_on", recipe="din_on"),
)


def curves(metric: str) -> dict[str, list[Curve]]:
    """By arm, a curve per seed; x: passes over one half."""
    return {arm.name: [curve_of(arm.job(seed).folder, metric, arm.passes) for seed in SEEDS] for arm in ARMS}


def original(run: Path) -> dict[str, object]:
    """The original beside the tower: its AUC by step, and the last step it was there for; None where it stayed."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    valid = [line for line in lines if line["kind"] == "valid"]
    beside = {line["step"]: line["beside_auc"] for line in valid if "beside_auc" in line}
    config = config_of(run)["train"]["dual_loss"]
    stayed = len(beside) == len(valid)
    reached = next((line["step"] for line in valid if line.get("beside_auc", 2.0) <= line["auc"]), None)
    gone = None if stayed or reached is None else reached + config["fade_steps"]
    return {"auc": beside, "reached_at": reached, "gone_after": gone}


@click.command()
@card_option
def main(card: Path) -> None:
    """Run what is not done yet and write the card."""
    run_all([old(seed) for seed in SEEDS])
    run_all([arm.job(seed) for seed in SEEDS for arm in ARMS])
    found = {metric: curves(metric) for metric in ("auc", "gauc")}
    new_folder(card)
    draw(found["auc"], card / "validation_auc.svg", "passes over one half of the training range", "validation AUC")
    tables = [
        f"### Validation {metric.upper()}, the tower alone\n\n{by_passes(each, 'end', lambda c: c.value[-1])}"
        for metric, each in found.items()
    ]
    (card / "tables.md").write_text("\n".join(tables))
    first = DUAL.job(SEEDS[0]).folder
    environment = environment_of(first)
    plain = {
        "environment": environment,
        "configs": {arm.slug: config_of(arm.job(1).folder) for arm in ARMS},
        "original": {f"{arm.slug}-{s}": original(arm.job(s).folder) for arm in ARMS[:2] for s in SEEDS},
        "curves": {m: {n: [c.plain() for c in seeds] for n, seeds in each.items()} for m, each in found.items()},
    }
    (card / "results.json").write_text(json.dumps(plain, indent=1) + "\n")
    print(f"tables, curves and plot: {card}", flush=True)


if __name__ == "__main__":
    main()
