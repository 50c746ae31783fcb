"""The card of GRAB on MovieLens-1M beside counters, DIN and HSTU, paired with GRAB, with the time DIN's figure took.

    ctr-rec prepare data/movielens_1m --raw FOLDER --out logs/movielens_1m_early --split early
    python -m launch.cards.grab --cut early --card launch/records/NAME

Stopped anywhere, the same command goes on. Every model was chosen on validation of the early cut; the test range of a
run is scored once, at its end. Runs lie below runs/card_grab.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import click

from ctr_rec.schema.manifest import load_manifest
from launch.cards.curves import Curve, curve_of, draw
from launch.cards.jobs import Scored, Trained, card_option, config_of, environment_of, new_folder, run_all
from launch.cards.movielens_baselines import CUTS, RECIPES, SCORERS, SEEDS
from launch.cards.summary import Row, markdown, plot, read_row

ROOT = Path("runs/card_grab")
REFERENCE = "grab"
MODELS = ("grab", "hstu_tuned", "din_tuned", "dcn_v2")


def trained(cut: str, model: str, seed: int) -> Trained:
    settings = {"data.log": CUTS[cut], "train.seed": str(seed)}
    return Trained(ROOT / cut / f"{model}-{seed}", f"{RECIPES}:{model}", settings)


def scorers(cut: str) -> list[Scored]:
    return [Scored(ROOT / cut / scorer, scorer, CUTS[cut]) for scorer in SCORERS]


def rows(cuts: Sequence[str], models: Sequence[str]) -> list[Row]:
    """Every model paired with GRAB of the same seed; a scorer without a seed with each of them."""
    found = []
    for cut in cuts:
        reference = [trained(cut, REFERENCE, seed).folder for seed in SEEDS]
        for one in scorers(cut):
            found.append(read_row(cut, one.scorer, [one.folder] * len(SEEDS), reference))
        for model in models:
            runs = [trained(cut, model, seed).folder for seed in SEEDS]
            found.append(read_row(cut, model, runs, reference if model != REFERENCE else None))
    return found


def seconds_to(run: Path, auc: float, impressions: int) -> float | None:
    """Seconds of training until validation AUC was first `auc` or more, validation not counted; None: never.

    impressions: of one epoch. From the rates that the run logged, an interval of steps at a time.
    """
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    valid = [line for line in lines if line["kind"] == "valid"]
    reached = [line["step"] for line in valid if line["auc"] >= auc]
    if not reached:
        return None
    per_step = impressions / valid[0]["step"]
    steps, seconds = 0, 0.0
    for line in (line for line in lines if line["kind"] == "train" and line["step"] <= reached[0]):
        seconds += (line["step"] - steps) * per_step / line["impressions_per_s"]
        steps = line["step"]
    return seconds


def times(cut: str, rival: str) -> dict[str, object]:
    """When each seed of GRAB reached the mean of the rival's best validation AUC."""
    goal = statistics.fmean(max(curve(cut, rival, seed).value) for seed in SEEDS)
    impressions = load_manifest(CUTS[cut]).impressions[0]
    seconds = [seconds_to(trained(cut, REFERENCE, seed).folder, goal, impressions) for seed in SEEDS]
    return {"auc": goal, "seconds": seconds}


def curve(cut: str, model: str, seed: int) -> Curve:
    folder = trained(cut, model, seed).folder
    epochs = config_of(folder)["train"]["epochs"]
    return curve_of(folder, "auc", length=epochs)


@click.command()
@click.option("--cut", "cuts", type=click.Choice(list(CUTS)), multiple=True, default=list(CUTS))
@click.option("--model", "models", type=click.Choice(MODELS), multiple=True, default=MODELS)
@card_option
def main(cuts: tuple[str, ...], models: tuple[str, ...], card: Path) -> None:
    """Run what is not done yet and write the card."""
    models = tuple(dict.fromkeys((REFERENCE, *models)))
    jobs = [trained(cut, model, seed) for cut in cuts for seed in SEEDS for model in models]
    run_all([*(one for cut in cuts for one in scorers(cut)), *jobs])
    found = rows(cuts, models)
    new_folder(card)
    plot(found, card / "test.svg")
    sequence = [model for model in models if model != "dcn_v2"]
    curves = {f"{cut} {model}": [curve(cut, model, seed) for seed in SEEDS] for cut in cuts for model in sequence}
    draw(curves, card / "validation_auc.svg", "epoch", "validation AUC", panel=lambda name: name.split()[0])
    first = {model: trained(cuts[0], model, SEEDS[0]).folder for model in models}
    environment = environment_of(first[REFERENCE])
    plain = {
        "environment": environment,
        "rows": [row.plain() for row in found],
        "time_to_din": {cut: times(cut, "din_tuned") for cut in cuts if "din_tuned" in models},
        "curves": {name: [one.plain() for one in seeds] for name, seeds in curves.items()},
        "configs": {model: config_of(folder) for model, folder in first.items()},
    }
    (card / "results.json").write_text(json.dumps(plain, indent=1) + "\n")
    (card / "tables.md").write_text(markdown(found, REFERENCE))
    print(f"tables, figures and plots: {card}", flush=True)


if __name__ == "__main__":
    main()
