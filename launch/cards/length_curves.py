"""AUC and GAUC against the length of the input: events cut, not windows; for GRAB, HSTU and DIN, three seeds.

    ctr-rec prepare data/synthetic --raw data/synthetic/long.json --out logs/synthetic_long
    python -m launch.cards.length_curves --card launch/records/NAME
    python -m launch.cards.length_curves --log default --run grab=runs/a --run grab=runs/b --card launch/records/NAME

The first trains what is not trained yet, below runs/card_length_curves; the second takes finished runs, one --run each.
Models are trained on whole histories and cut when they score; with --retrain also trained with the cut they score with.
A run scores its split once whole and once for every length; each scoring of the test range is counted in its folder.
Stopped anywhere, the same command goes on. Trials with --set belong under a --root of their own: what lies below the
root counts as trained, whatever its settings.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.prepare.synthetic import best_metrics
from launch.cards.jobs import Cut, Trained, card_option, config_of, environment_of, new_folder, run_all, said
from launch.cards.length_plot import AT_TEST, RETRAINED, Panel, Point, draw, table

ROOT = Path("runs/card_length_curves")
LENGTHS = (8, 16, 32, 64, 128, 256, 512, 1024)
TRAINED_AT = (8, 32, 128)
SEEDS = (1, 2, 3)
MODELS = ("grab", "hstu", "din")
PACKED = ("grab", "hstu")
# The settings of the cards that compare these models: chosen on the early cut's validation range.
MOVIELENS = {
    "grab": "launch/recipes/movielens.py:grab",
    "hstu": "launch/recipes/movielens.py:hstu_tuned",
    "din": "launch/recipes/movielens.py:din_tuned",
}
LOGS = {
    "default": "logs/movielens_1m",
    "middle": "logs/movielens_1m_middle",
    "early": "logs/movielens_1m_early",
    "synthetic": "logs/synthetic_long",
}
ALONE = 1024
"""Impressions of a batch in which packed towers are trained with a cut: 132,096 tokens at the longest of TRAINED_AT."""


@dataclass(frozen=True)
class Entry:
    """A run whose scores at `lengths` belong to one curve. length None: of the whole history."""

    log: str
    model: str
    arm: str
    folder: Path
    lengths: tuple[int | None, ...]

    def metrics(self, split: str, length: int | None) -> dict[str, float]:
        """A run trained with a cut has it in its own batches, so its whole score is the one at that length."""
        cut = length is not None and self.arm == AT_TEST
        name = f"{split}-history-{length}" if cut else split
        return json.loads((self.folder / "metrics" / f"{name}.json").read_text())["metrics"]


def trained(
    root: Path, log: str, model: str, seed: int, length: int | None, split: str, sets: dict[str, str]
) -> Trained:
    """A run of the card; length: of the histories it is trained with, None for whole ones."""
    recipe = f"launch/recipes/synthetic.py:{model}_long" if log == "synthetic" else MOVIELENS[model]
    settings = {"data.log": LOGS[log], "train.seed": str(seed), **sets}
    if length is not None and model in PACKED:
        settings["data.batches"] = json.dumps({"filling": "alone", "impressions": ALONE, "history": length})
    elif length is not None:
        settings["data.batches.history"] = str(length)
    name = f"{model}-{seed}" if length is None else f"{model}-{length}-{seed}"
    return Trained(root / log / name, recipe, settings, scored=(split,))


def own_entries(
    root: Path, logs: Sequence[str], models: Sequence[str], retrain: bool, split: str, sets: dict[str, str]
) -> tuple[list[Trained], list[Entry]]:
    """What the card trains itself, and the curves that come of it."""
    jobs, entries = [], []
    for log in logs:
        for model in models:
            for length in (None, *TRAINED_AT) if retrain else (None,):
                for seed in SEEDS:
                    job = trained(root, log, model, seed, length, split, sets)
                    jobs.append(job)
                    lengths = (*LENGTHS, None) if length is None else (length,)
                    entries.append(Entry(log, model, AT_TEST if length is None else RETRAINED, job.folder, lengths))
    return jobs, entries


def named_entries(log: str, named: Sequence[str]) -> list[Entry]:
    """Entries of finished runs, each said as MODEL=FOLDER. Raises UsageError for what is none."""
    entries = []
    for text in named:
        model, equals, folder = text.partition("=")
        if not equals or not (Path(folder) / "clean-stop.json").is_file():
            raise click.UsageError(f"--run expects MODEL=FOLDER of a run that has ended, got {text!r}")
        entries.append(Entry(log, model, AT_TEST, Path(folder), (*LENGTHS, None)))
    return entries


def panels(entries: Sequence[Entry], split: str) -> list[Panel]:
    """All curves of each log, its impressions by visible history, and the best reachable metrics where known."""
    found = []
    for log in dict.fromkeys(entry.log for entry in entries):
        mine = [entry for entry in entries if entry.log == log]
        seen = Predictions.load(mine[0].folder / "predictions" / f"{split}.parquet").history_length
        points: dict[tuple[str, str, int | None], list[dict[str, float]]] = {}
        for entry in mine:
            for length in entry.lengths:
                points.setdefault((entry.model, entry.arm, length), []).append(entry.metrics(split, length))
        found.append(
            Panel(
                log=log,
                impressions=len(seen),
                with_history={length: int((seen >= length).sum()) for length in LENGTHS},
                points=tuple(
                    Point(*key, tuple(m["auc"] for m in v), tuple(m["gauc"] for m in v)) for key, v in points.items()
                ),
                best=_best(log, split),
            )
        )
    return found


def _best(log: str, split: str) -> dict[str, float] | None:
    """Of the true probabilities, which only the synthetic log has."""
    if log != "synthetic":
        return None
    found = best_metrics(LOGS[log], split)
    return {"auc": float(found["auc"]), "gauc": float(found["gauc"])}


def write_card(entries: Sequence[Entry], split: str, folder: Path) -> None:
    """table.md, results.json and curves.svg; the prose beside them is written by hand."""
    found = panels(entries, split)
    new_folder(folder)
    draw(found, folder / "curves.svg")
    (folder / "table.md").write_text(table(found))
    first = entries[0].folder
    environment = environment_of(first)
    plain = {
        "split": split,
        "environment": environment,
        "configs": {f"{e.log} {e.folder.name}": config_of(e.folder) for e in entries},
        "panels": [panel.plain() for panel in found],
    }
    (folder / "results.json").write_text(json.dumps(plain, indent=1) + "\n")
    print(f"table, curves and figures: {folder}", flush=True)


@click.command()
@click.option("--log", "logs", type=click.Choice(list(LOGS)), multiple=True, default=list(LOGS))
@click.option("--model", "models", type=click.Choice(MODELS), multiple=True, default=MODELS)
@click.option(
    "--run", "named", multiple=True, metavar="MODEL=FOLDER", help="A finished run, instead of the card's own."
)
@click.option("--retrain", is_flag=True, help=f"Also train with the cut, for the lengths {TRAINED_AT}.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Setting of every run that the card trains.")
@click.option(
    "--root", type=click.Path(path_type=Path), default=ROOT, show_default=True, help="Of the card's own runs."
)
@click.option("--split", type=click.Choice(["valid", "test"]), default="test", show_default=True)
@card_option
def main(
    logs: tuple[str, ...],
    models: tuple[str, ...],
    named: tuple[str, ...],
    retrain: bool,
    sets: tuple[str, ...],
    root: Path,
    split: str,
    card: Path,
) -> None:
    """Run what is not done yet and write the card."""
    if named and (len(logs) != 1 or retrain or sets):
        raise click.UsageError("--run takes one --log, whose runs they are, and neither --retrain nor --set")
    jobs: list[Trained] = []
    if named:
        entries = named_entries(logs[0], named)
        jobs = [Trained(entry.folder, "", scored=(split,)) for entry in entries]
    else:
        jobs, entries = own_entries(root, logs, models, retrain, split, said(sets, "--set", ("data.log", "train.seed")))
    run_all(jobs)
    run_all([Cut(entry.folder, split, LENGTHS) for entry in entries if entry.arm == AT_TEST])
    write_card(entries, split, card)


if __name__ == "__main__":
    main()
