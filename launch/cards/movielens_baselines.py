"""The card of the baselines on MovieLens-1M: three rolling cuts in time, three seeds, against counters.

    python -m launch.cards.movielens_baselines --card launch/records/NAME   from the root, with all of CUTS prepared
    python -m launch.cards.movielens_baselines --cut early --model din --card launch/records/NAME

Stopped anywhere, the same command goes on where it was. Runs lie below runs/card_baselines, the card below
launch/records. Every model was chosen on validation; the test range of a run is scored once, at its end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click

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
JOBS = int(os.environ.get("JOBS", "2"))


@dataclass(frozen=True)
class Job:
    """One run: a tower's recipe with a seed, or a scorer without seed."""

    cut: str
    model: str
    seed: int | None

    @property
    def folder(self) -> Path:
        return ROOT / self.cut / (self.model if self.seed is None else f"{self.model}-{self.seed}")

    @property
    def done(self) -> bool:
        return all((self.folder / "metrics" / f"{split}.json").is_file() for split in ("valid", "test"))

    def run(self) -> None:
        """Trains (or goes on), then scores validation and test once."""
        if self.done:
            return
        if self.seed is None:
            call("predict", "--scorer", self.model, "--log", CUTS[self.cut], "--run-dir", str(self.folder))
            return
        if not (self.folder / "clean-stop.json").is_file() or self._stopped():
            self._train()
        for split in ("valid", "test"):
            if not (self.folder / "metrics" / f"{split}.json").is_file():
                call("evaluate", str(self.folder), "--split", split)

    def _stopped(self) -> bool:
        return json.loads((self.folder / "clean-stop.json").read_text())["end"] == "stopped"

    def _train(self) -> None:
        saved = any(self.folder.glob("checkpoints/step-*/manifest.json"))
        if self.folder.exists() and not saved:
            subprocess.run(["rm", "-r", str(self.folder)], check=True)
        settings = {"data.log": CUTS[self.cut], "train.seed": str(self.seed), "train.threads": "1"}
        sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        resume = ["--resume"] if saved else []
        call("train", f"{RECIPES}:{self.model}", *sets, "--run-dir", str(self.folder), *resume)


def call(*arguments: str) -> None:
    """One `ctr-rec` command on one thread; its output goes to a file, and its failure ends the card."""
    ROOT.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (ROOT / "output.log").open("a") as out:
        out.write(f"$ ctr-rec {' '.join(arguments)}\n")
        out.flush()
        subprocess.run(
            [sys.executable, "-m", "ctr_rec", *arguments], check=True, stdout=out, stderr=out, env=environment
        )


def jobs(cuts: Sequence[str], models: Sequence[str]) -> list[Job]:
    """All runs of the card, the scorers first: they take seconds."""
    found = [Job(cut, scorer, None) for cut in cuts for scorer in SCORERS]
    for cut in cuts:
        offered = (*TOWERS, *ONLY_DEFAULT) if cut == "default" else TOWERS
        found += [Job(cut, model, seed) for model in offered if model in models for seed in SEEDS]
    return found


def run_all(wanted: Sequence[Job]) -> None:
    """Runs what is not done yet, JOBS at a time, one line per finished run."""
    todo = [job for job in wanted if not job.done]
    print(f"{len(wanted) - len(todo)} runs done, {len(todo)} to go", flush=True)

    def one(job: Job) -> None:
        job.run()
        print(f"done: {job.folder}", flush=True)

    with ThreadPoolExecutor(JOBS) as pool:
        list(pool.map(one, todo))


def rows(wanted: Sequence[Job]) -> list[Row]:
    """Every model of every cut with its finished runs, paired with the reference on the same cut."""
    by_model: dict[tuple[str, str], list[Path]] = {}
    for job in wanted:
        if job.done:
            by_model.setdefault((job.cut, job.model), []).append(job.folder)
    return [
        read_row(cut, model, runs, ROOT / cut / REFERENCE if model != REFERENCE else None)
        for (cut, model), runs in by_model.items()
    ]


def write_card(wanted: Sequence[Job], folder: Path) -> None:
    """tables.md, results.json, test.svg and configs.json; the prose beside them is written by hand.

    A card is never written over: a later run of the script needs a folder of its own.
    """
    found = rows(wanted)
    folder.mkdir(parents=True, exist_ok=True)
    plot(found, folder / "test.svg")
    environment, configs = {}, {}
    for row in found:
        if (row.runs[0] / "environment.json").is_file():
            environment = json.loads((row.runs[0] / "environment.json").read_text())
            configs[row.model] = json.loads((row.runs[0] / "config.json").read_text())
    environment.pop("command", None)
    plain = {"environment": environment, "rows": [row.plain() for row in found]}
    (folder / "results.json").write_text(json.dumps(plain, indent=1) + "\n")
    (folder / "configs.json").write_text(json.dumps(configs, indent=1) + "\n")
    (folder / "tables.md").write_text(markdown(found, REFERENCE))
    print(f"tables, figures and plot: {folder}", flush=True)


@click.command()
@click.option("--cut", "cuts", type=click.Choice(list(CUTS)), multiple=True, default=list(CUTS))
@click.option("--model", "models", type=click.Choice([*TOWERS, *ONLY_DEFAULT]), multiple=True)
@click.option("--card", type=click.Path(path_type=Path), required=True, help="New folder below launch/records.")
def main(cuts: tuple[str, ...], models: tuple[str, ...], card: Path) -> None:
    """Run what is not done yet and write the card."""
    if card.exists():
        raise click.UsageError(f"{card} exists: cards are never edited; name a new folder")
    wanted = jobs(cuts, models or (*TOWERS, *ONLY_DEFAULT))
    run_all(wanted)
    write_card(wanted, card)


if __name__ == "__main__":
    main()
